# A notebook as a script: Jupyter (with jupytext), VS Code and PyCharm run its cells. A test runs them all.

# %% [markdown]
# # Segment a photograph, look, walk the tree, export

# %%
import json
from pathlib import Path

import numpy as np

import sohes

model = sohes.load()  # the model that comes with the code
result = model.segment("cat.jpg")
result  # as the last line of a cell: the photograph with its masks

# %% [markdown]
# Whole entities only, and the strongest of them alone.

# %%
from PIL import Image

Image.fromarray(result.plot(level=0))

# %%
best = int(np.flatnonzero(result.parents < 0)[0])
Image.fromarray(np.where(result.masks[best][..., None], result.image, 255).astype(np.uint8))


# %% [markdown]
# The tree: every mask below the one that it is a part of.


# %%
def show(parent: int, depth: int = 0) -> None:
    for i in np.flatnonzero(result.parents == parent)[:3]:
        print(f"{'  ' * depth}mask {i}: {result.areas[i]} pixels, score {result.scores[i]:.2f}")
        show(i, depth + 1)


show(-1)

# %% [markdown]
# The mask under a point, and all above it.

# %%
height, width = result.image.shape[:2]
under = np.flatnonzero(result.masks[:, height // 2, width // 2])
i = int(under[result.areas[under].argmin()]) if len(under) else -1
while i >= 0:
    print(f"mask {i}, level {result.levels[i]}")
    i = int(result.parents[i])

# %% [markdown]
# For other tools: COCO here; `sohes export` writes six more formats.

# %%
Path("cat.coco.json").write_text(json.dumps(result.to_coco("cat.jpg")))
result.save("masks", "cat")  # JSON and pictures; `sohes view masks` shows them
