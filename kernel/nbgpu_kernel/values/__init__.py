"""How values travel between a notebook and a session's kernel: one codec, which both ends load, and the kernel's end.

The notebook's side imports `definitions`, `encoding`, `packing` and `blob_files` from here, because what runs in a
kernel can import nothing of the notebook's. `session_values` and `objects` are the kernel's own.
"""
