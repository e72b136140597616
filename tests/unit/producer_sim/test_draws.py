import uuid

import numpy as np

from producer_sim.draws import choices, draws, fractions, tokens, uuids

NUMBERS = np.arange(100_000)


def test_a_draw_depends_on_nothing_but_seed_purpose_and_number():
    """A number drawn alone, or among others in any order, is the same number."""
    among_others = draws(7, "amount", NUMBERS)

    assert draws(7, "amount", NUMBERS[[41, 3]]).tolist() == among_others[[41, 3]].tolist()


def test_seeds_and_purposes_draw_apart():
    """Two purposes under one seed, or one purpose under two seeds, share no numbers."""
    streams = [draws(7, "amount", NUMBERS), draws(7, "place", NUMBERS), draws(8, "place", NUMBERS)]

    assert len(np.unique(np.concatenate(streams))) == 3 * len(NUMBERS)


def test_fractions_are_uniform():
    """Fractions lie in [0, 1), as many in each tenth (within 5 standard deviations)."""
    tenths = np.bincount((fractions(7, "amount", NUMBERS) * 10).astype(int))

    assert len(tenths) == 10
    assert abs(tenths - 10_000).max() < 5 * np.sqrt(10_000 * 0.9)


def test_choices_follow_their_weights_and_never_take_a_weight_of_nothing():
    """Weights are shares of their sum, and 0 means never."""
    counts = np.bincount(choices(7, "shop", NUMBERS, [3, 0, 1]), minlength=3)

    assert counts[1] == 0
    assert abs(counts[0] / len(NUMBERS) - 0.75) < 0.01


def test_tokens_are_letters_and_differ():
    """A token has no digit, so that nothing takes it for a card number."""
    made = tokens(7, "card", NUMBERS)

    assert len(set(made)) == len(made)
    assert all(token.isalpha() and len(token) == 16 for token in made)


def test_uuids_are_valid_and_differ():
    """An id is a UUID of version 8 in its usual spelling, and none is given twice."""
    made = uuids(7, "event", NUMBERS)

    assert len(set(made)) == len(made)
    assert all(
        str(parsed) == text and parsed.version == 8 and parsed.variant == uuid.RFC_4122
        for text in made
        for parsed in [uuid.UUID(text)]
    )
