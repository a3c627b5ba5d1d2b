"""From tracks to a twin: one file per method, and the searches that they share."""
