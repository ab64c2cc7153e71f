"""Sample languages: nouns with a gender, and dates in words

By the end you will have phrases in two languages that mean the same, with French agreement and word order, and a third language that says dates in dozens of ways. Each is drawn from known rules, and each draw is counted in bits.
"""

# cell 4789c881 a6284e · Sample languages: nouns with a gender, and dates in words
from __future__ import annotations

# generated from nbs/00f_sample_languages.ipynb: do not edit · b14fb1
__all__ = [
    "date_wordings",
    "draw_dates",
]
__dir__ = __all__.copy  # what completion offers

# cell 4789c881 5ff48f · Sample languages: nouns with a gender, and dates in words
import random
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import cache
from itertools import accumulate
from math import log2
from typing import Any, NamedTuple


# cell 1c875802 5e8099 · Words
_NOUNS = """
person: friend ami/amie m/f, brother frère m, sister sœur f, girl|daughter fille f, man homme m,
    woman femme f, child enfant m, teacher professeur m, mother mère f, doctor médecin m,
    neighbor voisin/voisine m/f, boy garçon m, student étudiant/étudiante m/f, father père m,
    cousin cousin/cousine m/f, nurse infirmière f, king roi m, baker boulanger/boulangère m/f,
    queen reine f, hero héros m
animal: cat chat m, dog chien m, bird oiseau m, horse cheval m, mouse souris f, cow vache f,
    rabbit lapin m, donkey âne m, owl hibou m, bee abeille f
food: apple pomme f, cake gâteau m, egg œuf m, orange orange f, cheese fromage m, soup soupe f,
    bean haricot m, onion oignon m, pear poire f, strawberry fraise f, carrot carotte f
text: book livre m, letter lettre f, newspaper|paper journal m, story histoire f, poem poème m,
    word mot m, sentence phrase f, magazine magazine m, ad annonce f
thing: car voiture/auto f/f, key clé f, hat chapeau m, bag sac m, flower fleur f,
    umbrella parapluie m, bicycle|bike vélo/bicyclette m/f, watch montre f, knife couteau m,
    tree arbre m, shoe chaussure f, computer ordinateur m, photo|picture photo f, coat manteau m,
    gift|present cadeau m, clock horloge f, boat bateau m,
    tool outil m, box boîte f, dress robe f, ladder échelle f, lamp lampe f
place: house maison f, garden jardin m, school école f, hotel hôtel m, kitchen cuisine f,
    church église f, store|shop magasin m, street rue f, park parc m, apartment appartement m,
    office bureau m, bridge pont m, hospital hôpital m, island île f, forest forêt f, tower tour f
"""


# cell 7a6dbb77 b002e8 · Words
_ADJECTIVES = """
before: big|large grand pafto, small|little petit paftol, new nouveau|nouvel|nouvelle toal,
    old vieux|vieil|vieille patol, beautiful beau|bel|belle patol, good bon||bonne pft,
    young jeune pa, pretty joli potl, bad mauvais pft
after: black noir ao, white blanc||blanche aol, red rouge afo, blue bleu ol, green vert afo,
    expensive cher||chère fol, strange étrange patol, heavy lourd to, happy heureux||heureuse pa,
    tired fatigué pa, empty vide ol, famous célèbre ptl, dangerous dangereux||dangereuse pal,
    sick malade pa, rich riche p, dirty sale aofl, interesting intéressant ptl, gray gris aol,
    round rond o, dry sec||sèche fl, Italian italien||italienne pftol, honest honnête p
"""
# English (base past); French (infinitive in -er, or six forms of the present and the participle);
# what the object can be; "=" no progressive form, "+" être in the past
_VERBS = """
see saw: vois vois voit voyons voyez voient vu: paftol =
look_for looked_for: chercher: paftol
like|love liked|loved: aimer: paftol =
find found: trouver: paftol
eat ate: manger: f
read read: lis lis lit lisons lisez lisent lu: t
buy bought: achète achètes achète achetons achetez achètent acheté: fto
watch watched: regarder: pao
write wrote: écris écris écrit écrivons écrivez écrivent écrit: t
know knew: connais connais connaît connaissons connaissez connaissent connu: ptl =
sell sold: vends vends vend vendons vendez vendent vendu: aftol
wait_for waited_for: attends attends attend attendons attendez attendent attendu: p
lose lost: perds perds perd perdons perdez perdent perdu: ot
want wanted: veux veux veut voulons voulez veulent voulu: afto =
draw drew: dessiner: paol
hide hid: cacher: fto
listen_to listened_to: écouter: p
call called: appelle appelles appelle appelons appelez appellent appelé: pa
bring brought: apporter: fto
wash washed: laver: afo
hate hated: détester: paftol =
help helped: aider: pa
forget forgot: oublier: to
steal stole: voler: to
work worked: travailler:
sleep slept: dors dors dort dormons dormez dorment dormi:
live lived: habiter: @
sing sang: chanter:
arrive arrived: arriver: +@
leave left: pars pars part partons partez partent parti: +
cry cried: pleurer:
come_back came_back: reviens reviens revient revenons revenez reviennent revenu: +@
smile smiled: souris souris sourit sourions souriez sourient souri:
"""


# cell db6b709a 003d4d · Words
class _Noun:
    """A noun: what kind of thing it names, its English words, its French words with gender."""

    def __init__(self, kind: str, entry: str):
        english, french, genders = entry.split()
        self.kind, self.english = kind, english.split("|")
        self.french = list(zip(french.split("/"), genders.split("/"), strict=True))


class _Adjective:
    """An adjective: its English words, its French forms, its place, and what it may describe."""

    def __init__(self, place: str, entry: str):
        english, french, self.kinds = entry.split()
        masculine, vowel, feminine = (*french.split("|"), "", "")[:3]
        self.before, self.english, self.masculine = place == "before", english.split("|"), masculine
        self.vowel = vowel or masculine
        self.feminine = feminine or masculine + "e" * (masculine[-1] != "e")


class _Verb:
    """A verb: its English words (base, past), six French forms and the participle, its objects."""

    def __init__(self, line: str):
        english, french, rest = (part.strip() for part in line.split(":"))
        self.english = list(zip(*(side.split("|") for side in english.split()), strict=True))
        self.kinds = rest.strip(" =+@")
        self.state, self.moves, self.settles = ("=" in rest), ("+" in rest), ("@" in rest)
        forms = french.split()
        if len(forms) == 1:
            stem, soft = french[:-2], "e" * french.endswith("ger")
            forms = [stem + end for end in ("e", "es", "e", soft + "ons", "ez", "ent", "é")]
        self.present, self.participle = forms[:6], forms[6]


@cache
def _lexicon() -> tuple[dict[str, list[_Noun]], list[_Adjective], list[_Verb]]:
    """Return the nouns by kind, the adjectives and the verbs, frequent ones first."""
    tables = [{line.partition(":")[0]: line.partition(":")[2].split(",")
               for line in text.strip().replace(",\n", ",").splitlines()}
              for text in (_NOUNS, _ADJECTIVES)]
    nouns = {kind: [_Noun(kind, entry) for entry in entries] for kind, entries in tables[0].items()}
    adjectives = [_Adjective(place, e) for place, entries in tables[1].items() for e in entries]
    return nouns, adjectives, [_Verb(line) for line in _VERBS.strip().splitlines()]


# cell 3de5773c b83c7a · Choices, in bits
@cache
def _chances(n_options: int, zipf: float) -> tuple[list[float], list[float]]:
    """Return where the chance of each option ends on a line from 0 to 1, and its bits."""
    weights = [(n + 3) ** -zipf for n in range(n_options)]
    return ([end / sum(weights) for end in accumulate(weights)],
            [log2(sum(weights) / weight) for weight in weights])


class _Dice:
    """Draw from options, and add up in bits what the draws are worth, by what they decide."""

    def __init__(self, seed: int):
        self.random, self.bits = random.Random(seed).random, Counter()

    def draw(self, what: str, options: Sequence[Any], zipf: float = 0.0) -> Any:
        """Draw one option; the chance of option n (from 0) is proportional to (n + 3) ** -zipf."""
        ends, bits = _chances(len(options), zipf)
        n = bisect(ends, self.random(), hi=len(ends) - 1)
        self.bits[what] += bits[n]
        return options[n]

    def chance(self, what: str, p: float) -> bool:
        """Return True with chance p."""
        yes = self.random() < p
        self.bits[what] -= log2(p if yes else 1 - p)
        return yes


# cell 25f4f049 92229a · Phrases
_Piece = tuple[str, str]  # a text, and labels for what it stands for, a space between them


class _Phrase:
    """A noun with its determiner, number, adjectives and owner; or a pronoun; or a name."""

    def __init__(self, role: str, person: str = "", noun: Any = None, plural: bool = False,
                 determiner: str = "", adjectives: Sequence[_Adjective] = (), owner: str = ""):
        self.role, self.person, self.noun, self.plural = role, person, noun, plural
        self.determiner, self.adjectives, self.owner = determiner, adjectives, owner
        self.is_pronoun = noun is None and person not in _NAMES


_NAMES = {"Tom": ("Tom", "m"), "Mary": ("Marie", "f"), "Anne": ("Anne", "f"), "Paul": ("Paul", "m")}
_PRONOUNS = ("you", "he", "she", "they", "I", "we")
_DETERMINERS = ("the", "a", "your", "their", "my", "this", "owner", "his", "our", "two", "three")
_LETTERS = {"p": "person", "a": "animal", "f": "food", "t": "text", "o": "thing", "l": "place"}


@cache
def _fitting(letter: str) -> tuple[list[_Adjective], list[_Adjective]]:
    """Return the adjectives for a kind of noun: those that precede it in French, and the others."""
    fitting = [adjective for adjective in _lexicon()[1] if letter in adjective.kinds]
    return [a for a in fitting if a.before], [a for a in fitting if not a.before]


def _draw_noun_phrase(dice: _Dice, role: str, kinds: str, without: str = "") -> _Phrase:
    """Draw the meaning of a phrase about a noun of one of the kinds."""
    letter = dice.draw("meaning", kinds)
    noun = dice.draw("meaning", _lexicon()[0][_LETTERS[letter]], 0.7)
    options = [word for word in _DETERMINERS if word not in without.split()]
    determiner = dice.draw("meaning", options, 0.8)
    plural = determiner in ("two", "three") or dice.chance("meaning", 0.25)
    adjectives = [dice.draw("meaning", part, 0.5) for part in _fitting(letter)
                  if dice.chance("meaning", 0.22)]
    owner = dice.draw("meaning", list(_NAMES), 0.5) if determiner == "owner" else ""
    return _Phrase(role, "they" if plural else "it", noun, plural, determiner, adjectives, owner)


def _draw_subject(dice: _Dice) -> _Phrase:
    """Draw who does it: a pronoun, a name, or a person or an animal."""
    kind = dice.draw("meaning", ("pronoun", "pronoun", "noun", "name"))
    if kind == "noun":
        return _draw_noun_phrase(dice, "subject", "ppa", without="a")
    return _Phrase("subject", dice.draw("meaning", _PRONOUNS if kind == "pronoun" else list(_NAMES),
                                        0.5))


# cell a7552035 82d891 · In English
def _add_s(word: str) -> str:
    """Add the s of English, of a plural and of the third person alike."""
    odd = {"man": "men", "woman": "women", "child": "children", "mouse": "mice", "knife": "knives",
           "hero": "heroes"}
    if word in odd:
        return odd[word]
    if word[-1] == "y" and word[-2] not in "aeou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def _add_ing(verb: str) -> str:
    """Return the form in -ing."""
    if verb in ("forget", "steal"):
        return {"forget": "forgetting", "steal": "stealing"}[verb]
    return (verb[:-1] if verb.endswith("e") and verb != "be" else verb) + "ing"


def _english_verb(words: str, label: str, change: Any = None) -> list[_Piece]:
    """Return the pieces of a verb of one or two words; `change` inflects the first."""
    first, *rest = words.split("_")
    return [(change(first) if change else first, label), *((word, label) for word in rest)]


def _english_phrase(dice: _Dice, phrase: _Phrase) -> list[_Piece]:
    """Put a phrase into English: determiner, adjectives, noun."""
    role, noun = phrase.role, phrase.noun
    if noun is None:
        return [(phrase.person, role)]
    words = []
    if phrase.determiner == "owner":
        words += [(phrase.owner, f"{role}.owner"), ("'s", f"{role}.of")]
    elif phrase.determiner == "a" and phrase.plural:
        words += [("some", f"{role}.the")]
    elif phrase.determiner == "his":
        words += [(dice.draw("english", ("his", "her")), f"{role}.the")]
    elif phrase.determiner == "this":
        both = ("these", "those") if phrase.plural else ("this", "that")
        words += [(dice.draw("english", both), f"{role}.the")]
    elif phrase.determiner:
        words += [(phrase.determiner, f"{role}.the")]
    words += [(dice.draw("english", adjective.english), f"{role}.{n}")
              for n, adjective in enumerate(phrase.adjectives)]
    name = dice.draw("english", noun.english)
    words += [(_add_s(name) if phrase.plural else name, role)]
    if phrase.determiner == "a" and not phrase.plural and words[1][0][0] in "aeiou":
        words[0] = ("an", f"{role}.the")
    return words


# cell 6457a085 d1c7f5 · In French
_SILENT_H = ("hôtel", "hôpital", "homme", "histoire", "horloge", "habit", "honnête", "heureu")
_ELIDED = {"le", "la", "je", "ne", "de", "que"}


def _starts_with_vowel(word: str) -> bool:
    """Return whether a French word makes the one before lose its vowel."""
    return word[0] in "aeiouâéèêîôœA" or word.startswith(_SILENT_H)


def _french_plural(word: str) -> str:
    """Return the plural of a French noun or of a masculine adjective."""
    if word.endswith(("s", "x")):
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith("eau") else "s")


def _french_adjective(adjective: _Adjective, feminine: bool, plural: bool, before: str) -> str:
    """Return the form that agrees; `before` is the word that follows, if the adjective precedes."""
    if feminine:
        return adjective.feminine + "s" * plural
    if plural:
        return _french_plural(adjective.masculine)
    return adjective.vowel if before and _starts_with_vowel(before) else adjective.masculine


def _french_determiner(kind: str, feminine: bool, plural: bool, next_word: str, formal: bool
                       ) -> str:
    """Return the determiner that agrees, before elision."""
    vowel, column = _starts_with_vowel(next_word), 2 if plural else int(feminine)
    if kind in ("my", "his") or (kind == "your" and not formal):
        letter = {"my": "m", "his": "s", "your": "t"}[kind]
        return letter + ("es" if plural else "a" if feminine and not vowel else "on")
    if kind == "this":
        return "ces" if plural else "cette" if feminine else "cet" if vowel else "ce"
    return {"the": ("le", "la", "les"), "owner": ("le", "la", "les"), "a": ("un", "une", "des"),
            "your": ("votre", "votre", "vos"), "our": ("notre", "notre", "nos"),
            "their": ("leur", "leur", "leurs"), "two": ("deux",) * 3, "three": ("trois",) * 3,
            "which": ("quel", "quelle", "quel" + "le" * feminine + "s")}[kind][column]


class _Noted(NamedTuple):
    """A phrase in French, and what agrees with it: its person (0 to 5), gender and number."""

    pieces: list[_Piece]
    person: int
    feminine: bool
    plural: bool


def _french_phrase(dice: _Dice, phrase: _Phrase, formal: bool) -> _Noted:
    """Put a phrase into French: determiner, adjectives before, noun, adjectives behind, owner."""
    role, noun, plural = phrase.role, phrase.noun, phrase.plural
    if noun is None:
        return _french_pronoun(dice, phrase, formal)
    word, gender = dice.draw("french", noun.french)
    feminine, pieces = gender == "f", []
    pieces.append((_french_plural(word) if plural else word, role))
    for n, adjective in enumerate(phrase.adjectives):
        if adjective.before:
            form = _french_adjective(adjective, feminine, plural, pieces[0][0])
            pieces.insert(0, (form, f"{role}.{n}"))
        else:
            pieces.append((_french_adjective(adjective, feminine, plural, ""), f"{role}.{n}"))
    if phrase.determiner:
        form = _french_determiner(phrase.determiner, feminine, plural, pieces[0][0], formal)
        pieces.insert(0, (form, "" if phrase.determiner == "owner" else f"{role}.the"))
    if phrase.owner:
        pieces += [("de", f"{role}.of"), (_NAMES[phrase.owner][0], f"{role}.owner")]
    return _Noted(pieces, 5 if plural else 2, feminine, plural)


def _french_pronoun(dice: _Dice, phrase: _Phrase, formal: bool) -> _Noted:
    """Put a pronoun or a name into French; who is meant decides gender and number."""
    person, role = phrase.person, phrase.role
    if person in _NAMES:
        name, gender = _NAMES[person]
        return _Noted([(name, role)], 2, gender == "f", False)
    if person in ("he", "she"):
        return _Noted([("il" if person == "he" else "elle", role)], 2, person == "she", False)
    feminine = dice.chance("french", 0.4)
    if person == "they":
        return _Noted([("elles" if feminine else "ils", role)], 5, feminine, True)
    if person == "you":
        plural = formal and dice.chance("french", 0.5)
        return _Noted([("vous" if formal else "tu", role)], 4 if formal else 1, feminine, plural)
    return _Noted([("je" if person == "I" else "nous", role)], 0 if person == "I" else 3, feminine,
                  person == "we")


# cell 822143d8 d7b338 · Dates
_UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
          "fifteen sixteen seventeen eighteen nineteen").split()
_TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
             "nine": "ninth", "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}
_MONTHS = ("January February March April May June July August September October November "
           "December").split()
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _number_in_words(n: int) -> str:
    """Write a number from 0 to 99 in words."""
    if n < 20:
        return _UNITS[n]
    return _TENS[n // 10] + (f"-{_UNITS[n % 10]}" if n % 10 else "")


def _ordinal_in_words(n: int) -> str:
    """Write first, second … thirty-first."""
    *tens, last = _number_in_words(n).split("-")
    return "-".join([*tens, _ORDINALS.get(last, last + "th")])


def _years_in_words(year: int) -> list[str]:
    """List the ways to say a year from 1100 to 2099."""
    century, rest = divmod(year, 100)
    ways = [f"two thousand {_number_in_words(rest)}", f"two thousand and {_number_in_words(rest)}"
            ] if century == 20 and rest else ["two thousand"] if century == 20 else []
    if rest >= 10:
        ways.append(f"{_number_in_words(century)} {_number_in_words(rest)}")
    elif century != 20:
        ways.append(f"{_number_in_words(century)} " + (f"oh {_UNITS[rest]}" if rest else "hundred"))
    return ways


# cell d401c86c 961159 · Dates
def date_wordings(day: date) -> list[str]:
    """List all the ways in which the language of dates says a day between 1100 and 2099."""
    month, ordinal = _MONTHS[day.month - 1], _ordinal_in_words(day.day)
    short = f"{day.day}" + ("th" if 10 < day.day < 20 else
                            {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th"))
    years = [str(day.year), *_years_in_words(day.year)]
    ways = [form for year in years for form in (
        f"{month} {short}, {year}", f"{month} {ordinal}, {year}",
        f"the {ordinal} of {month} {year}", f"the {short} of {month}, {year}",
        f"{day.day} {month[:3]} {year}", f"{month} the {ordinal} in the year {year}")]
    weekday = _WEEKDAYS[day.weekday()]
    return ways + [f"{weekday}, {way}" for way in ways if not way.startswith("the")]


def draw_dates(n_pairs: int, seed: int = 1) -> list[tuple[str, str]]:
    """Draw days between 1600 and 2099: pairs (one of the day's wordings, its ISO form)."""
    rng, first = random.Random(seed), date(1600, 1, 1).toordinal()
    days = date(2100, 1, 1).toordinal() - first
    drawn = (date.fromordinal(first + int(rng.random() * days)) for _ in range(n_pairs))
    ways = ((day, date_wordings(day)) for day in drawn)
    return [(found[int(rng.random() * len(found))], day.isoformat()) for day, found in ways]
