"""Other products' names for what nbgpu has, so that their examples run here with the import changed."""
