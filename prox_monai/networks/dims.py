"""The ``torch.nn`` classes of two or three spatial dimensions: nowhere else does the dimension decide."""

from __future__ import annotations

from torch import nn


def _select(spatial_dims: int, two: type[nn.Module], three: type[nn.Module]) -> type[nn.Module]:
    if spatial_dims == 2:
        return two
    if spatial_dims == 3:
        return three
    raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}.")


def conv(spatial_dims: int) -> type[nn.Module]:
    """Return ``nn.Conv2d`` or ``nn.Conv3d``.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3.
    """
    return _select(spatial_dims, nn.Conv2d, nn.Conv3d)


def transposed_conv(spatial_dims: int) -> type[nn.Module]:
    """Return ``nn.ConvTranspose2d`` or ``nn.ConvTranspose3d``.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3.
    """
    return _select(spatial_dims, nn.ConvTranspose2d, nn.ConvTranspose3d)


def instance_norm(spatial_dims: int) -> type[nn.Module]:
    """Return ``nn.InstanceNorm2d`` or ``nn.InstanceNorm3d``.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3.
    """
    return _select(spatial_dims, nn.InstanceNorm2d, nn.InstanceNorm3d)


def batch_norm(spatial_dims: int) -> type[nn.Module]:
    """Return ``nn.BatchNorm2d`` or ``nn.BatchNorm3d``.

    Raises:
        ValueError: When ``spatial_dims`` is not 2 or 3.
    """
    return _select(spatial_dims, nn.BatchNorm2d, nn.BatchNorm3d)
