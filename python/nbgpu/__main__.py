"""`python -m nbgpu`: the command line, where the `nbgpu` program is not on the PATH."""

import sys

from nbgpu.cli import main

sys.exit(main())
