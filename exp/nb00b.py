"""Samples: made-up data with a known truth

By the end you will have programs that write digits, names, a text and film ratings, the same bytes on every machine, and you will know for names and ratings the lowest loss that any model can reach.
"""

# generated from nbs/00b_samples.ipynb: do not edit · 6b126d
__all__ = [
    "stored_gzip",
    "idx_bytes",
    "enlarge_digits",
    "make_mnist",
    "names_chain",
    "draw_name",
    "make_names",
    "expected_visits",
    "conditional_entropy",
    "NamesTruth",
    "names_truth",
    "make_nietzsche",
    "MovieLensTruth",
    "movielens_truth",
    "make_movielens_100k",
]

# cell 9f1e7706 64b014 · Samples: made-up data with a known truth
import random
import struct
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import comb, fsum, log
from pathlib import Path

import numpy as np


# cell c2d2f5f8 a6cd43 · The same bytes everywhere
def stored_gzip(data: bytes) -> bytes:
    """Wrap bytes as a gzip file without compressing them: the same file on every machine.

    Source: RFC 1952 (the frame); RFC 1951, section 3.2.4 (stored blocks of up to 65,535 bytes).
    """
    starts = range(0, max(len(data), 1), 65535)
    blocks = [data[start : start + 65535] for start in starts]
    body = b"".join(struct.pack("<BHH", i == len(blocks), len(block), len(block) ^ 0xFFFF) + block
                    for i, block in enumerate(blocks, 1))
    frame = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # magic, "deflate", no flags, no time, no system
    return frame + body + struct.pack("<II", zlib.crc32(data), len(data) % 2**32)


# cell 12ce6b5e debda6 · Digits
def idx_bytes(array: np.ndarray) -> bytes:
    """Return an array of bytes in the idx format: its type, its shape, its values.

    Shape: (n,) for labels, (n, rows, columns) for images; uint8.
    Raises: TypeError unless the array holds bytes.
    """
    if array.dtype != np.uint8:
        raise TypeError(f"idx files of digits hold uint8, got {array.dtype}: convert it first")
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


# cell f9a82661 99431e · Digits
def enlarge_digits(images: np.ndarray) -> np.ndarray:
    """Enlarge 8×8 images of 0..16 two and a half times, into 28×28 images of 0..255 with a border.

    Shape: (n, 8, 8) -> (n, 28, 28).
    """
    place = 4 * np.arange(28) - 19  # of each large pixel in the small image, in tenths
    left, tenths = place // 10 + 2, place % 10  # + 2: the small image gets a frame of two zeros
    small = np.pad(images.astype(np.int64), ((0, 0), (2, 2), (2, 2)))
    tall = small[:, left] * (10 - tenths)[:, None] + small[:, left + 1] * tenths[:, None]
    large = tall[:, :, left] * (10 - tenths) + tall[:, :, left + 1] * tenths  # (n, 28, 28)
    return ((large * 255 + 800) // 1600).astype(np.uint8)  # 1600 = 16 · 10 · 10, rounded


# cell f8947ae3 1424b2 · Who wrote what
_FIRST_TEST_DIGIT = 1545  # where the last two of 14 forms begin


def make_mnist(folder: Path) -> None:
    """Write scikit-learn's digits as the four files of MNIST: 1,545 for training, 252 for testing.

    Differs: the digits are in the order of the forms that their writers filled in, unshuffled.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the built-in digits come with scikit-learn: pip install "
                                  "'ground-up[samples]', or set EXP_DATA=full") from None
    digits = load_digits()
    images, labels = enlarge_digits(digits.images), digits.target.astype(np.uint8)
    train, test = slice(_FIRST_TEST_DIGIT), slice(_FIRST_TEST_DIGIT, None)
    for part, rows in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(stored_gzip(idx_bytes(array[rows])))


# cell c743c7ee 6ce81c · Names
_GIVEN_NAMES = """
    aaron abigail adam adele adrian agnes aisha alan albert alice amara amelia amir amy ana andrea
    andrew angela anita anna anton antonia ariel arthur astrid aurora ava beatrice bella benedict
    benjamin bernard bianca boris brandon brenda brian bridget bruno caleb camila carl carla carmen
    caroline catherine cecilia cedric celeste charles charlotte chiara chloe christian clara claudia
    clement colin conrad cora cornelia cyril dalia damian daniel daniela daria david deborah delia
    denis diana diego dominic dora dorothy edgar edith edmund eduardo edward eileen elena eliana
    elias elisa elizabeth ella ellen elliot eloise elsa emil emilia emily emma enzo eric erica
    esther ethan eugene eva evelyn ezra fabian farah fatima felicia felix fernando fiona flora
    florence frances francesca frank frederick freya gabriel gabriela gemma george georgia gerald
    gilbert gina giovanni gloria gordon grace gregory greta gustav hadley hana hannah harold harriet
    harry hassan hazel hector helen helena henry herbert hilda hugo ian ibrahim ida ines ingrid
    irene iris isaac isabel isabella ismael ivan ivy jack jacob jada jamal james jana jane jasmine
    jasper javier jean jenna jeremy jerome jesse joan joanna joel johan jonas jonathan jordan joseph
    josephine joshua judith julia julian juliana kai karen karim karina karl katarina kayla keira
    kelly kenneth kevin kiara kira klara kyle laila lara laura lauren layla lea leah leander leila
    lena leo leon leona leonard leonora leticia levi liam lila lilian lily linda lionel lisa livia
    lorena lorenzo louis louisa lucas lucia lucy luis luisa luna lydia mabel magdalena maia malik
    manuel mara marcel marco margaret maria mariana marina marion mark marlene martha martin martina
    mary mason mateo mathilda matthew maurice max maya melanie melissa mercedes michael michelle
    miguel mila milan miles mina mira miranda miriam mohamed mona monica morgan muriel nadia naomi
    natalia nathan nathaniel neil nelson nicholas nicola nicole nina noah noel noemi nora norman
    nuria octavia olga oliver olivia omar oscar otto pablo pamela patricia patrick paul paula
    paulina pedro penelope peter philip phoebe priya quentin rachel rafael ramona rania raphael
    raymond rebecca regina renata ricardo richard rita robert roberta robin rodrigo roland roman
    rosa rosalind rose rowan ruben ruby rudolf rufus ruth sabina sabrina salma salvador samantha
    samira samuel sandra sara sasha saul sebastian selena serena sergio silas silvia simon simone
    sofia solomon sonia sophie stella stephanie stephen susan susanna sylvia tamara tania teresa
    thea theo theodora theresa thomas tiana timothy tobias tomas tristan uma ursula valentina
    valeria vanessa vera verena veronica victor victoria vincent viola violet virginia vivian
    walter wanda wendy wesley wilhelm william willow xavier yara yasmin yolanda yusuf yvonne zahra
    zara zelda zoe
""".split()


# cell 77e810da 40e31d · Names
@cache
def names_chain() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Count the votes for each next letter: context of three letters -> (letters, their votes).

    A letter gets three votes each time it follows all three letters in the list of given names,
    and one each time it follows the last two of them; "." begins and ends a name.
    """
    after_three, after_two = defaultdict(Counter), defaultdict(Counter)
    for name in _GIVEN_NAMES:
        text = f"...{name}."
        for i, letter in enumerate(text[3:]):
            after_three[text[i : i + 3]][letter] += 3
            after_two[text[i + 1 : i + 3]][letter] += 1
    votes = {c: after_three[c] + after_two[c[1:]] for c in sorted(after_three)}
    return {c: ("".join(sorted(v)), tuple(v[x] for x in sorted(v))) for c, v in votes.items()}


# cell f6307cf4 fa9af7 · Names
def draw_name(rng: random.Random) -> str:
    """Draw one name, letter by letter, until its end is drawn."""
    name = ""
    while not name.endswith("."):
        letters, votes = names_chain()[f"...{name}"[-3:]]
        ticket = int(rng.random() * sum(votes))
        name += next(x for x, end in zip(letters, accumulate(votes), strict=True) if ticket < end)
    return name[:-1]


def make_names(folder: Path, n_names: int = 32_033, seed: int = 42) -> None:
    """Write names drawn independently from the chain, one per line, as `names.txt`."""
    rng = random.Random(seed)
    text = "\n".join(draw_name(rng) for _ in range(n_names))
    (folder / "names.txt").write_bytes(text.encode("ascii"))


# cell 356a5ccd 78c043 · The least possible loss
def expected_visits(chances: dict[str, dict[str, float]]) -> dict[str, float]:
    """Solve v = s + Qᵀ v: how often a name passes through each context, on average."""
    place = {context: i for i, context in enumerate(chances)}
    start, flow = np.zeros(len(place)), np.eye(len(place))  # flow becomes 1 - Qᵀ
    start[place["..."]] = 1
    for context, row in chances.items():
        for letter, p in row.items():
            if letter != ".":
                flow[place[context[1:] + letter], place[context]] -= p
    return dict(zip(place, np.linalg.solve(flow, start).tolist(), strict=True))


# cell 111adc9d 20eb5b · The least possible loss
def conditional_entropy(chances: dict[str, dict[str, float]], visits: dict[str, float],
                        seen: int) -> float:
    """Compute the lowest possible loss of a model that sees the last `seen` letters of a context.

    Units: nats per letter, the end of a name counted as a letter.
    """
    together = defaultdict(Counter)
    for context, row in chances.items():
        for letter, p in row.items():
            together[context[3 - seen :]][letter] += visits[context] * p
    nats = sum(-n * log(n / row.total()) for row in together.values() for n in row.values())
    return nats / sum(visits.values())


# cell c0fd4ac6 ca9d4a · The least possible loss
@dataclass(frozen=True)
class NamesTruth:
    """What is known about the chain that draws the names.

    Units: losses in nats per letter, the end of a name counted as a letter.
    """

    chances: dict[str, dict[str, float]]  # context of three -> next letter -> chance
    visits: dict[str, float]  # context -> how often a name passes through it, on average
    best_loss: tuple[float, ...]  # entry k: the least loss of a model that sees the last k letters

    @property
    def entropy_rate(self) -> float:
        """The lowest possible loss of any model."""
        return self.best_loss[-1]


@cache
def names_truth() -> NamesTruth:
    """Compute the chain's chances, how often it visits each context, and the lowest losses."""
    chances = {context: {x: n / sum(votes) for x, n in zip(letters, votes, strict=True)}
               for context, (letters, votes) in names_chain().items()}
    visits = expected_visits(chances)
    return NamesTruth(chances, visits,
                      tuple(conditional_entropy(chances, visits, k) for k in range(4)))


# cell 6d12a76f a279c2 · A text
def make_nietzsche(folder: Path) -> None:
    """Write this Python's own language reference as one long text, `nietzsche.txt`.

    Differs: English about Python; it changes slightly from one version of Python to the next.
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    (folder / "nietzsche.txt").write_bytes(text.encode())


# cell 2eb54d57 a6631f · Ratings
def _bell(rng: np.random.RandomState, *shape: int) -> np.ndarray:
    """Draw nearly normal numbers of mean 0 and variance 1: sums of twelve uniform ones."""
    return sum((rng.random_sample(shape) for _ in range(12)), start=np.zeros(shape)) - 6


# cell 94af79c6 cce7f2 · Ratings
_TOSSES, _TOSS_SIZE = 16, 0.4


def _rating(score: np.ndarray, heads: np.ndarray | int) -> np.ndarray:
    """Turn a score and the number of heads into a rating: add the noise, round, clip to 1..5."""
    return np.clip(np.floor(score + _TOSS_SIZE * (heads - _TOSSES // 2) + 0.5), 1, 5)


def _rating_moments(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and variance, over all tosses, of the rating that a score leads to."""
    chances = [comb(_TOSSES, heads) / 2**_TOSSES for heads in range(_TOSSES + 1)]
    ratings = [_rating(score, heads) for heads in range(_TOSSES + 1)]
    mean = sum(p * r for p, r in zip(chances, ratings, strict=True))
    return mean, sum(p * (r - mean) ** 2 for p, r in zip(chances, ratings, strict=True))


# cell 434cc311 4f1f59 · Ratings
def _who_rates_what(rng: np.random.RandomState, n_users: int, n_items: int,
                    n_ratings: int) -> np.ndarray:
    """Choose which pairs are rated: at least 20 for each user, popular items more often.

    Shape: (n_users, n_items), True for a rated pair.
    """
    eager = rng.random_sample(n_users) ** 2
    counts = 20 + (eager * (n_ratings - 20 * n_users) / fsum(eager)).astype(int)
    counts[: n_ratings - counts.sum()] += 1  # what was lost by rounding down
    popular = 2.5 * rng.random_sample(n_items) ** 2
    draw = popular + _bell(rng, n_users, n_items)
    rank = (-draw).argsort(1, kind="stable").argsort(1, kind="stable")
    return rank < counts[:, None]


# cell 137cb6e0 c89a65 · Ratings
@dataclass(frozen=True)
class MovieLensTruth:
    """What is known about the ratings; users and items in the order of their ids, from 0.

    Shape: biases (users,) and (items,), factors (users, 2) and (items, 2), matrices (users, items).
    Units: points; the variance in points squared.
    """

    mean: float
    user_bias: np.ndarray
    item_bias: np.ndarray
    user_factors: np.ndarray
    item_factors: np.ndarray
    expected: np.ndarray  # the mean of each rating: the best prediction
    variance: np.ndarray  # what remains of it
    rated: np.ndarray  # True where the data holds a rating

    @property
    def noise_floor(self) -> float:
        """The mean squared error of the best prediction, over the ratings in the data."""
        return float(self.variance[self.rated].mean())


# cell 0ad8dd15 77fdee · Ratings
@cache
def _draw_ratings() -> tuple[MovieLensTruth, np.ndarray]:
    """Draw the world of the ratings: the truth about it, and a rating for every pair."""
    n_users, n_items, n_ratings, rng = 400, 300, 20_000, np.random.RandomState(42)
    user_bias, item_bias = 0.4 * _bell(rng, n_users), 0.5 * _bell(rng, n_items)
    user_factors, item_factors = 0.7 * _bell(rng, n_users, 2), 0.7 * _bell(rng, n_items, 2)
    score = 3.5 + user_bias[:, None] + item_bias
    for k in range(2):  # a matrix product, added in the same order on every machine
        score = score + user_factors[:, None, k] * item_factors[:, k]
    rated = _who_rates_what(rng, n_users, n_items, n_ratings)
    heads = (rng.random_sample((_TOSSES, n_users, n_items)) < 0.5).sum(0)
    truth = MovieLensTruth(3.5, user_bias, item_bias, user_factors, item_factors,
                           *_rating_moments(score), rated)
    return truth, _rating(score, heads).astype(int)


def movielens_truth() -> MovieLensTruth:
    """Return the biases, factors and noise that the sample's ratings were drawn from."""
    return _draw_ratings()[0]


# cell 515e1446 b8c0c7 · Writing the files
_GENRES = ("unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
           "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western").split()
_TITLES = [f"{first} {second}, The" for first in
           ("Broken Crimson Distant Electric Empty Endless Forgotten Frozen Golden Hidden Last "
            "Little Lonely Lucky Midnight Nervous Second Silent Stolen Wild").split() for second in
           ("Bridge Café Circus Clock Country Dancer Fiancée Garden Harbour Island Letter Moon "
            "Orchard Piano Promise River Señor Summer Train Winter").split()]


def _film_line(number: int, title: str, year: int, factors: np.ndarray) -> str:
    """Return a film's line of `u.item`: number, title, date, no video date, address, 19 flags."""
    genres = ("Drama" if factors[0] > 0 else "Comedy", "Romance" if factors[1] > 0 else "Action")
    flags = "|".join(str(int(genre in genres)) for genre in _GENRES)
    page = f"http://example.org/film/{number}"
    return f"{number}|{title} ({year})|01-Jan-{year}||{page}|{flags}\n"


# cell ecca40d8 5d62e7 · Writing the files
def make_movielens_100k(folder: Path) -> None:
    """Write the ratings as `u.data` (tabs) and the films as `u.item` (pipes, latin-1).

    Differs: 20,000 ratings of 300 films by 400 people; genres follow the factors.
    """
    (truth, ratings), rng = _draw_ratings(), np.random.RandomState(7)
    users, items = truth.rated.nonzero()
    times = 874_724_710 + (rng.random_sample(len(users)) * 18_561_928).astype(int)  # 1997-98
    order = rng.random_sample(len(users)).argsort(kind="stable")
    lines = (f"{users[i] + 1}\t{items[i] + 1}\t{ratings[users[i], items[i]]}\t{times[i]}\n"
             for i in order)
    (folder / "u.data").write_bytes("".join(lines).encode("ascii"))
    chosen = rng.random_sample(len(_TITLES)).argsort(kind="stable")[: len(truth.item_bias)]
    chosen[-4:] = chosen[:4]  # four titles that stand for two films each
    films = (_film_line(i + 1, _TITLES[j], 1930 + 37 * j % 68, truth.item_factors[i])
             for i, j in enumerate(chosen))
    (folder / "u.item").write_bytes("".join(films).encode("latin-1"))
