"""What Dagster's pages show: metadata, links, maps, previews, errors and progress."""
