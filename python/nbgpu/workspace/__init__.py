"""The files beside the notebook, kept in step with those of a session's folder."""
