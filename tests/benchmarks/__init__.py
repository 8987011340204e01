"""How fast nbgpu is, as ratios to what runs without it: `make bench`. Measures; asserts nothing about time."""
