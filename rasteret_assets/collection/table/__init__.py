"""The record table as a question: filters, scans of published files, what they hold."""
