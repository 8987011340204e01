"""The files of a session's own folder, kept in step with those of the folders that sync with it."""
