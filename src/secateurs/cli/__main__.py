"""``python -m secateurs.cli``: the same as ``secateurs``. ``torchrun -m secateurs.cli`` starts several processes."""

from __future__ import annotations

from secateurs.cli import main

if __name__ == "__main__":
    main()
