"""Whether weights of timm's hub can be had, found out without torch and without fetching them."""

from __future__ import annotations

from sohes.errors import first_sentence, is_installed

FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT = 3.0  # seconds for the hub to answer


def repository(pretrained: str) -> str:
    """Of a timm model: its own, if `hf-hub:` names one, or the one under the model's name and tag, as most have."""
    own = pretrained.removeprefix("hf-hub:")
    return own if own != pretrained else f"timm/{pretrained}"


def is_cached(pretrained: str) -> bool:
    """Whether the weights are on this machine."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(repository(pretrained), file), str) for file in FILES)


def out_of_reach(pretrained: str) -> str | None:
    """Why the weights cannot be had now, in a few words; None if they are on this machine or the hub has them."""
    if not is_installed("huggingface_hub"):
        return "the package huggingface_hub is not installed"
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    if is_cached(pretrained):
        return None
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(repository(pretrained), FILES[0]), timeout=TIMEOUT)
    except Exception as error:  # its client raises a dozen kinds: no network, no login, no such model
        return f"{constants.ENDPOINT}: {first_sentence(error)}"
    return None
