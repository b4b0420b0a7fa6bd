# SPDX-License-Identifier: Apache-2.0
"""From attenuation to a scanned film: blur, grain, characteristic curve, and what lies on films."""

import cv2
import numpy as np

from data_prep.phantom_tissue import SUBPIXEL_BITS, FloatImage, blurred


def expose(
    rng: np.random.Generator, attenuation: FloatImage, *, blur: float, grain: float
) -> FloatImage:
    """Scanned film of an attenuation image.

    Args:
        rng: Source of randomness.
        attenuation: Shape ``(H, W)``; around 0.5 the display follows it with slope 1.
        blur: Standard deviation of the point spread, in pixels.
        grain: Standard deviation of quantum noise and film grain, relative to full range.

    Returns:
        Shape ``(H, W)``, values in ``[0, 1]``, bright where much is absorbed.

    The characteristic curve of film is sigmoid in log exposure; a logistic one is used.
    """
    seen = blurred(attenuation, blur)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    # Grain of a scan is correlated over about a pixel; the factor restores its size.
    seen += grain * 1.8 * blurred(noise, 0.5)
    return np.asarray(0.5 + 0.5 * np.tanh(2 * (seen - 0.5)), np.float32)


def add_film_artefact(rng: np.random.Generator, film: FloatImage, grain_size: float) -> FloatImage:
    """Lays one thing on a film that is not breast: border, scratch, dust, or a skin marker.

    Args:
        rng: Source of randomness.
        film: Shape ``(H, W)``, values in ``[0, 1]``.
        grain_size: Pixels per 1/128 of a crop's edge.

    Returns:
        A new image, values in ``[0, 1]``.
    """
    film = film.copy()
    height, width = film.shape
    kind = rng.choice(["border", "scratch", "dust", "marker"], p=[0.4, 0.15, 0.25, 0.2])
    if kind == "border":
        edge = max(1, round(float(rng.uniform(1, 9)) * grain_size))
        turned = np.rot90(film, int(rng.integers(4)))  # a view: the film itself changes
        turned[:, :edge] = 1.0
        return film
    layer = np.zeros((height, width), np.uint8)
    level = float(rng.uniform(60, 220))
    one = 2**SUBPIXEL_BITS
    if kind == "scratch":
        start = rng.uniform(0, 1, 2) * (width, height)
        angle = rng.uniform(0, 2 * np.pi)
        end = start + rng.uniform(8, 70) * grain_size * np.array([np.cos(angle), np.sin(angle)])
        ends = np.round(np.stack([start, end]) * one).astype(np.int32)
        cv2.polylines(layer, [ends], False, level, 1, cv2.LINE_AA, SUBPIXEL_BITS)
    elif kind == "dust":
        for x, y in rng.uniform(0, 1, (int(rng.integers(1, 5)), 2)) * (width, height):
            axes = np.round(rng.uniform(0.3, 1.3, 2) * grain_size * one).astype(int)
            turn = float(rng.uniform(0, 180))
            at = (round(float(x) * one), round(float(y) * one))
            cv2.ellipse(
                layer, at, axes.tolist(), turn, 0, 360, level, -1, cv2.LINE_AA, SUBPIXEL_BITS
            )
    else:
        x, y = np.round(rng.uniform(0.08, 0.92, 2) * (width, height) * one).astype(int).tolist()
        radius = round(float(rng.uniform(1.5, 3.0)) * grain_size * one)
        cv2.circle(layer, (x, y), radius, 255.0, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    cover = layer.astype(np.float32) / 255
    dark = kind == "scratch" and rng.random() < 0.3
    return np.asarray(film + cover * ((0.1 if dark else 0.97) - film), np.float32)
