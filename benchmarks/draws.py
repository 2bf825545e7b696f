"""Several answers to the same question."""


def draws(model, given, target, number):
    """Answers of an any-to-any model with so many different seeds."""
    count = len(next(iter(given.values())))
    for draw in range(number):
        yield model.predict(given, [target], range(draw * count, (draw + 1) * count))[target]
