"""Emotion words and where they lie in the space of pleasure, arousal and dominance.

Requires only the standard library. Positions: Scott, Keitel, Becirspahic, Yao & Sereno (2019), "The Glasgow Norms",
Behavior Research Methods 51, CC BY 4.0: means over some 33 raters of each word, here (x - 5) / 4. The words are those
of three published lists of emotion terms that the norms hold: the 135 of Shaver et al. (1987), the 28 of Russell's
circumplex (1980) and the 27 of GoEmotions (Demszky et al. 2020); of homographs the one that is an emotion.
"""

import math
from collections.abc import Sequence
from typing import Any

# By word: pleasure, arousal, dominance, each -1..1.
POSITIONS: dict[str, tuple[float, float, float]] = {
    "affection": (0.79, 0.46, 0.15), "afraid": (-0.7, 0.13, -0.57), "agony": (-0.86, 0.13, -0.48),
    "amusement": (0.66, 0.37, 0.39), "anger": (-0.62, 0.16, -0.1), "angry": (-0.65, 0.23, 0.1),
    "anguish": (-0.64, -0.06, -0.3), "annoyance": (-0.63, -0.14, 0), "anxiety": (-0.69, 0.07, -0.67),
    "approval": (0.61, 0.18, -0.05), "aroused": (0.57, 0.74, 0.17), "astonished": (0.2, 0.36, -0.04),
    "attraction": (0.67, 0.55, 0.25), "bliss": (0.77, 0.36, 0.24), "bored": (-0.51, -0.63, -0.23),
    "calm": (0.59, -0.31, 0.24), "confusion": (-0.44, -0.08, -0.38), "contempt": (-0.43, -0.07, 0.07),
    "content": (0.79, 0.39, 0.57), "defeat": (-0.62, -0.28, -0.42), "delight": (0.76, 0.52, 0.21),
    "delighted": (0.76, 0.35, 0.36), "depressed": (-0.86, -0.49, -0.61), "depression": (-0.82, -0.3, -0.7),
    "desire": (0.48, 0.61, 0.22), "despair": (-0.74, -0.1, -0.64), "disgust": (-0.66, -0.12, -0.04),
    "distress": (-0.68, 0.11, -0.52), "distressed": (-0.59, -0.18, -0.45), "dread": (-0.73, 0.14, -0.5),
    "ecstasy": (0.54, 0.49, 0.1), "elation": (0.73, 0.38, 0.35), "embarrassment": (-0.69, -0.04, -0.53),
    "enjoyment": (0.79, 0.62, 0.47), "enthusiasm": (0.75, 0.48, 0.52), "euphoria": (0.83, 0.7, 0.41),
    "excited": (0.79, 0.72, 0.47), "excitement": (0.82, 0.67, 0.32), "fear": (-0.61, 0.04, -0.54),
    "fright": (-0.52, 0.39, -0.44), "frustrated": (-0.61, -0.11, -0.32), "frustration": (-0.65, 0.03, -0.39),
    "fury": (-0.64, 0.2, 0.21), "gaiety": (0.53, 0.03, 0.21), "glad": (0.73, 0.2, 0.16), "glee": (0.65, 0.31, 0.3),
    "gloom": (-0.55, -0.53, -0.36), "gloomy": (-0.58, -0.52, -0.29), "gratitude": (0.71, 0.11, 0.11),
    "grief": (-0.76, -0.03, -0.34), "guilt": (-0.68, -0.09, -0.47), "happiness": (0.89, 0.49, 0.32),
    "happy": (0.81, 0.48, 0.55), "hate": (-0.85, 0.04, -0.16), "hope": (0.75, 0.46, 0.3),
    "horror": (-0.59, 0.3, -0.23), "humiliation": (-0.73, -0.01, -0.63), "hurt": (-0.69, -0.09, -0.36),
    "infatuation": (0.08, 0.34, -0.24), "insecurity": (-0.64, -0.34, -0.56), "insult": (-0.61, 0.04, 0),
    "irritation": (-0.6, 0.05, -0.31), "jealousy": (-0.7, 0.13, -0.36), "joy": (0.77, 0.49, 0.4),
    "longing": (-0.17, -0.02, -0.26), "love": (0.91, 0.79, 0.08), "lust": (0.14, 0.59, -0.06),
    "miserable": (-0.82, -0.42, -0.46), "misery": (-0.71, -0.43, -0.43), "neglect": (-0.86, -0.11, -0.45),
    "optimism": (0.87, 0.44, 0.6), "outrage": (-0.66, 0.2, 0.15), "panic": (-0.68, 0.17, -0.61),
    "passion": (0.78, 0.64, 0.4), "pity": (-0.44, -0.37, -0.32), "pleasure": (0.77, 0.56, 0.24),
    "pride": (0.52, 0.28, 0.52), "rage": (-0.74, 0.37, 0.22), "regret": (-0.65, -0.34, -0.53),
    "remorse": (-0.3, -0.36, -0.36), "resentment": (-0.76, -0.05, -0.17), "sad": (-0.7, -0.26, -0.49),
    "sadness": (-0.79, -0.31, -0.5), "satisfaction": (0.7, 0.42, 0.3), "satisfied": (0.66, 0.23, 0.42),
    "scorn": (-0.59, -0.03, -0.22), "serene": (0.49, -0.02, 0.15), "shame": (-0.68, -0.26, -0.49),
    "shock": (-0.44, 0.2, -0.33), "sleepy": (-0.22, -0.58, -0.41), "sorrow": (-0.73, -0.34, -0.35),
    "suffering": (-0.86, -0.22, -0.44), "surprise": (0.52, 0.59, -0.34), "sympathy": (0.27, 0.07, 0.04),
    "tense": (-0.51, 0.04, -0.26), "terror": (-0.83, 0.2, -0.47), "thrill": (0.63, 0.62, 0.43),
    "tired": (-0.4, -0.46, -0.35), "torment": (-0.77, 0.3, -0.46), "triumph": (0.8, 0.52, 0.56),
    "woe": (-0.65, -0.18, -0.43), "worry": (-0.7, -0.12, -0.52), "wrath": (-0.59, 0.28, -0.12),
    "zeal": (0.36, 0.23, 0.29), "zest": (0.45, 0.24, 0.28),
}  # fmt: skip
# The words that an answer names: few, as three numbers can't tell joy from bliss.
WORDS = ["joy", "love", "excitement", "pride", "calm", "surprise", "bored", "sadness", "fear", "anger", "disgust"]
NEUTRAL = "neutral"
# How a text with an emotion is read, in standard deviations of the labels from the neutral point: OFFSET + SLOPE *
# position of the word, and SPREAD around it. By scripts/emotion_words.py, on GoEmotions' training texts.
OFFSET = (-0.45, 1.1, 0.45)
SLOPE = (1.65, 0.9, 1.2)
SPREAD = (1.25, 1.05, 0.9)
# Of a text without an emotion, before it is read: the share among GoEmotions' training comments with one label.
NEUTRAL_SHARE = 0.35


def emotion_shares(mean: Sequence[float], deviation: Sequence[float], config: Any) -> dict[str, float]:
    """How well each word goes with a text, as probabilities that sum to one, the likeliest first.

    By Bayes' rule: each word's texts lie around its position, the text's own label around its prediction, both as
    normal distributions; every word but "neutral" is equally likely before the text is read.

    Args:
        mean, deviation: prediction and standard deviation of pleasure, arousal and dominance, in label units.
        config: a `LiminalConfig` with these three among its targets.

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> config = LiminalConfig(pooled_size=8, label_std=[0.2, 0.2, 0.2])
        >>> list(emotion_shares([0.5, 0.4, 0.1], [0.1, 0.1, 0.1], config))[:3]
        ['love', 'excitement', 'joy']
        >>> list(emotion_shares([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], config))[0]
        'neutral'
    """
    zones, parts = config.neutral_zone, []
    for part, index in enumerate(config.pad_indices):
        unit, (low, high) = config.label_std[index], zones[index]
        variance = deviation[part] ** 2 + (SPREAD[part] * unit) ** 2
        parts.append((unit, mean[part] - (low + high) / 2, variance, math.log(variance)))
    scores = {}
    for word in (*WORDS, NEUTRAL):
        score = math.log(NEUTRAL_SHARE if word == NEUTRAL else (1 - NEUTRAL_SHARE) / len(WORDS))
        for part, (unit, distance, variance, logarithm) in enumerate(parts):
            position = 0.0 if word == NEUTRAL else OFFSET[part] + SLOPE[part] * POSITIONS[word][part]
            score -= ((distance - position * unit) ** 2 / variance + logarithm) / 2
        scores[word] = score
    largest = max(scores.values())
    weights = {word: math.exp(score - largest) for word, score in scores.items()}
    total = sum(weights.values())
    return {word: weights[word] / total for word in sorted(weights, key=lambda word: -weights[word])}
