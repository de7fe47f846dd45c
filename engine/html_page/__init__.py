"""Pages for a browser: one file each, of one template and style, without other files and without network access."""
