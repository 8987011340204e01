"""`nbgpu doctor`: looks at what a notebook and a GPU machine need, and says what to mend."""
