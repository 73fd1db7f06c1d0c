"""The forms in which pixels and records are returned or written, a module each; underscored modules help one form."""
