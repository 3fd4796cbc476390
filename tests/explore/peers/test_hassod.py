import numpy as np

from sohes.explore.peers.hassod import adaptive_clusters


def test_clusters_are_kept_and_what_holds_two_corners_is_background():
    features = np.zeros((6, 6, 3), np.float32)
    features[..., 0] = 1
    features[2:4, 2:4] = (0, 1, 0)  # an object
    features[:2, :2] = (0, 0, 1)  # another, in one corner
    found = adaptive_clusters(features, theta_merge=(0.4, 0.2), nms_iou=0.9)
    assert sorted(int(mask.sum()) for mask in found) == [4, 4]
    assert found[:, 2:4, 2:4].all((1, 2)).any()
    assert found[:, :2, :2].all((1, 2)).any()


def test_the_number_of_objects_follows_the_thresholds():
    angles = np.linspace(0, np.pi / 2, 8)
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)[None].repeat(8, 0)
    features += np.random.default_rng(0).normal(scale=1e-3, size=features.shape).astype(np.float32)
    few = adaptive_clusters(features, theta_merge=(0.97,), nms_iou=0.9)
    many = adaptive_clusters(features, theta_merge=(0.999, 0.99, 0.97), nms_iou=0.9)
    assert len(many) > len(few)
