"""Samples: made-up data with a known truth

By the end you will have programs that write digits, names, a text and film ratings, the same bytes on every machine, and you will know for names and ratings the lowest loss that any model can reach.
"""

# generated from nbs/00b_samples.ipynb: do not edit · 0fa66d
__all__ = [
    "stored_gzip",
    "idx_bytes",
    "enlarge_digits",
    "make_mnist",
    "NAME_START",
    "remember_letter",
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
__dir__ = __all__.copy  # what completion offers

# cell 9f1e7706 790ab7 · Samples: made-up data with a known truth
import random
import struct
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import comb, fsum, inf, log
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


# cell 77e810da aa55a9 · Names
_KIND = {**dict.fromkeys("eiy", "L"), **dict.fromkeys("aou", "D")}  # light and dark vowels
NAME_START = "....."  # what the chain remembers before the first letter


def remember_letter(memory: str, letter: str) -> str:
    """Return what the chain remembers after one more letter, in five signs.

    They are the last three signs of the pattern; `=` if the name keeps to a kind of vowel, `~` if
    it alternates; `L` or `D`, the kind of its last vowel.
    """
    habit = ("=" if letter <= "j" else "~") if memory == NAME_START else memory[3]
    kind = _KIND.get(letter)
    return memory[1:3] + ("*" if kind else letter) + habit + (kind or memory[4])


# cell cedd92be 7fcdb2 · Names
@cache
def names_chain() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Count the tickets for each next letter: what is remembered -> (letters, their tickets)."""
    follows = defaultdict(Counter)  # three signs of the pattern -> the next sign, in the list
    for name in _GIVEN_NAMES:
        text = f"...{''.join('*' if x in _KIND else x for x in name)}."
        for i, sign in enumerate(text[3:]):
            follows[text[i : i + 3]][sign] += 1
    vowels = Counter(x for name in _GIVEN_NAMES for x in name if x in _KIND)
    size = Counter()  # how many vowels of each kind
    for vowel, n in vowels.items():
        size[_KIND[vowel]] += n
    chain, todo = {}, [NAME_START]
    for memory in todo:  # grows while it is read
        if memory in chain:
            continue
        kind, keeps = memory[4], memory[3] == "="
        tickets = {sign: n * 32 * size["L"] * size["D"]
                   for sign, n in follows[memory[:3]].items() if sign != "*"}
        for vowel, n in vowels.items() if "*" in follows[memory[:3]] else ():
            other = size.total() - size[_KIND[vowel]]
            right = 16 if kind == "." else 31 if (_KIND[vowel] == kind) == keeps else 1
            tickets[vowel] = follows[memory[:3]]["*"] * right * n * other
        chain[memory] = ("".join(sorted(tickets)), tuple(tickets[x] for x in sorted(tickets)))
        todo += [remember_letter(memory, x) for x in chain[memory][0] if x != "."]
    return chain


# cell f6307cf4 06ff63 · Names
def draw_name(rng: random.Random) -> str:
    """Draw one name, letter by letter, until its end is drawn."""
    name, memory = "", NAME_START
    while True:
        letters, tickets = names_chain()[memory]
        ends = list(accumulate(tickets))  # the first letter has the tickets below ends[0], …
        letter = letters[bisect_right(ends, rng.randrange(ends[-1]))]
        if letter == ".":
            return name
        name, memory = name + letter, remember_letter(memory, letter)


def make_names(folder: Path, n_names: int = 32_033, seed: int = 42) -> None:
    """Write names drawn independently from the chain, one per line, as `names.txt`."""
    rng = random.Random(seed)
    text = "\n".join(draw_name(rng) for _ in range(n_names))
    (folder / "names.txt").write_bytes(text.encode("ascii"))


# cell 356a5ccd 96b3ff · The least possible loss
def expected_visits(chances: Callable[[Hashable], dict[str, float]], start: Hashable,
                    step: Callable[[Hashable, str], Hashable]) -> dict[Hashable, float]:
    """Sum s + Qᵀs + (Qᵀ)²s + …: how often a name passes through each state, on average.

    `chances(state)` are those of the next letter, `step(state, letter)` is the state after it.
    """
    place, todo, edges = {start: 0}, [start], []
    for state in todo:  # grows while it is read
        for letter, p in chances(state).items():
            if letter != ".":
                following = step(state, letter)
                if following not in place:
                    place[following] = len(place)
                    todo.append(following)
                edges.append((place[state], place[following], p))
    source, target, p = (np.array(column) for column in zip(*edges, strict=True))
    passing = np.eye(1, len(place))[0]
    visits = passing.copy()
    while passing.sum() > 1e-13:
        passing = np.bincount(target, passing[source] * p, len(place))
        visits += passing
    return dict(zip(place, visits.tolist(), strict=True))


# cell 111adc9d 621efd · The least possible loss
def conditional_entropy(chances: Callable[[Hashable], dict[str, float]],
                        visits: dict[Hashable, float],
                        view: Callable[[Hashable], Hashable]) -> float:
    """Compute the lowest possible loss of a model that sees `view(state)` instead of the state.

    Units: nats per letter, the end of a name counted as a letter.
    """
    together = defaultdict(Counter)
    for state, n in visits.items():
        for letter, p in chances(state).items():
            together[view(state)][letter] += n * p
    nats = sum(-n * log(n / row.total()) for row in together.values() for n in row.values())
    return nats / sum(visits.values())


# cell c0fd4ac6 7d84ba · The least possible loss
@dataclass(frozen=True)
class NamesTruth:
    """What is known about the chain that draws the names.

    Units: losses in nats per letter, the end of a name counted as a letter.
    """

    chances: dict[str, dict[str, float]]  # what is remembered -> next letter -> chance
    visits: dict[str, float]  # how often a name passes through it, on average
    best_loss: tuple[float, ...]  # entry k: the least loss of a model that sees the last k letters
    entropy_rate: float  # the lowest possible loss of any model

    @property
    def letters_per_name(self) -> float:
        """The average length of a name, its end included."""
        return sum(self.visits.values())

    @property
    def nats_per_name(self) -> float:
        """The entropy of a whole name."""
        return self.entropy_rate * self.letters_per_name

    def prices(self, name: str) -> list[float]:
        """Return -ln of the chance of each letter of a name, its end included; inf if it is 0."""
        memory, found = NAME_START, []
        for letter in f"{name}.":
            p = self.chances.get(memory, {}).get(letter, 0.0)
            found.append(-log(p) if p else inf)
            memory = remember_letter(memory, letter)
        return found


def _window_loss(chances: dict[str, dict[str, float]], k: int) -> float:
    """Compute the least loss of a model that sees the last k letters."""
    def step(state: tuple[str, str], letter: str) -> tuple[str, str]:
        window, memory = state
        seen = window + _KIND.get(letter, letter)
        return seen[len(seen) - k :], remember_letter(memory, letter)

    visits = expected_visits(lambda state: chances[state[1]], ("." * k, NAME_START), step)
    return conditional_entropy(lambda state: chances[state[1]], visits, lambda state: state[0])


@cache
def names_truth(longest: int = 4) -> NamesTruth:
    """Compute chances, visits and the least losses of models that see up to `longest` letters."""
    chances = {memory: {x: n / sum(tickets) for x, n in zip(letters, tickets, strict=True)}
               for memory, (letters, tickets) in names_chain().items()}
    visits = expected_visits(chances.get, NAME_START, remember_letter)
    return NamesTruth(chances, visits, tuple(_window_loss(chances, k) for k in range(longest + 1)),
                      conditional_entropy(chances.get, visits, lambda memory: memory))


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
