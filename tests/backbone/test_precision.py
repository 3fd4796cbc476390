import pytest
import torch

from sohes.backbone import precision


@pytest.mark.parametrize("able", [False, True])
def test_bfloat16_is_used_where_the_cpu_multiplies_in_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for wanted in (False, True):
        with precision.half_precision(torch.device("cpu"), wanted):
            assert layer(x).dtype == (torch.bfloat16 if able and wanted else torch.float32)
            with precision.full_precision(torch.device("cpu")):
                assert layer(x).dtype == torch.float32
    assert precision.multiplies_in_bfloat16(torch.device("cuda"))
