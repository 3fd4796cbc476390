import numpy as np
import pytest


@pytest.fixture
def drawn() -> np.ndarray:
    """(3, 80, 200) bool: a mask inside the picture, one at its border, an empty one."""
    masks = np.zeros((3, 80, 200), bool)
    masks[0, 10:20, 100:120] = True
    masks[1, 40:80, 150:200] = True
    return masks
