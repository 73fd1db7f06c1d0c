"""What starts runs: jobs, schedules, sensors, and the comparison of source and published partitions."""
