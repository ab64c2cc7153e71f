"""What people type into a translator, and a translator that travels to another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from exp.nb04c import export_model
from exp.nb11c import BytePairTokenizer, WordTokenizer
from exp.nb11d import TextVocab
from exp.nb12 import GRUTranslator
from exp.nb12a import Translator, load_translator

ROOT = Path(__file__).parent.parent
FRENCH = ["Qui est là ?", "Où est le chat noir ?", "Pourquoi ris-tu ?"]
ENGLISH = ["Who is there?", "Where is the black cat?", "Why do you laugh?"]


def made(tokenize="words", **options):
    torch.manual_seed(3)
    if tokenize == "words":
        tokenizers = WordTokenizer("fr"), WordTokenizer("en")
    else:
        tokenizers = BytePairTokenizer.train(FRENCH, 40), BytePairTokenizer.train(ENGLISH, 40)
    vocabs = [
        TextVocab.from_texts(texts, tokenizer)
        for texts, tokenizer in zip((FRENCH, ENGLISH), tokenizers, strict=True)
    ]
    sizes = {
        "n_source": len(vocabs[0]),
        "n_target": len(vocabs[1]),
        "hidden_size": 12,
        "source_size": 8,
        "target_size": 8,
        "attention": "tanh",
        "tie_weights": True,
    }
    return Translator(GRUTranslator(**sizes), *vocabs, **options), sizes


@pytest.mark.parametrize("tokenize", ["words", "pieces"])
def test_texts_without_a_word_are_returned_without_asking_the_model(tokenize):
    translator, _ = made(tokenize)
    translator.model = None  # would fail if it were asked
    assert translator(["", "  \t", "?!", "\n", " … \n\n -"]) == ["", "", "?!", "\n", "…\n\n-"]
    assert translator([]) == translator(iter(())) == []


@pytest.mark.parametrize("tokenize", ["words", "pieces"])
def test_lines_are_translated_one_by_one_and_kept(tokenize):
    translator, _ = made(tokenize)
    one, two, three = translator(FRENCH)
    assert translator(f"{FRENCH[0]}\n\n{FRENCH[1]}\r\n  {FRENCH[2]}  \n") == (
        f"{one}\n\n{two}\n{three}\n"
    )
    assert translator([FRENCH[1], "", FRENCH[1]]) == [two, "", two]


@pytest.mark.parametrize("tokenize", ["words", "pieces"])
@pytest.mark.parametrize("text", ["我喜欢猫吗？", "Кто там?", "ΑΒΓ"])
def test_a_text_of_which_nothing_is_known_is_refused_with_its_number(tokenize, text):
    translator, _ = made(tokenize)
    assert "is known" in translator.why_not(text)
    with pytest.raises(ValueError, match=r"text 2 of 3.*is known"):
        translator([FRENCH[0], text, FRENCH[1]])
    assert translator.why_not(FRENCH[0]) == ""


def test_a_word_among_unknown_ones_is_enough():
    translator, _ = made()
    assert translator.why_not("zzz chat zzz") == ""
    assert isinstance(translator("zzz chat zzz"), str)


def test_very_long_lines_are_refused_with_both_numbers():
    translator, _ = made(max_tokens=5)
    with pytest.raises(ValueError, match="6 tokens is longer than max_tokens=5"):
        translator("Où est le chat noir ?")
    assert translator("Qui ?\n" * 40).count("\n") == 40


@pytest.mark.parametrize("bad", [None, 7, b"Qui ?"])
def test_anything_but_text_is_refused(bad):
    translator, _ = made()
    with pytest.raises(TypeError, match="must be a string"):
        translator([FRENCH[0], bad])
    with pytest.raises(TypeError):
        translator(bad)
    with pytest.raises(TypeError, match="a list of texts"):
        translator.translate(FRENCH[0])


@pytest.mark.parametrize("tokenize", ["words", "pieces"])
def test_a_translator_survives_a_file_with_its_settings_and_tied_weights(tmp_path, tokenize):
    translator, sizes = made(tokenize, width=2, length_penalty=0.5, batch_size=3, max_tokens=30)
    path = translator.save(tmp_path / "fr-en.safetensors", GRUTranslator, sizes)
    assert [file.name for file in tmp_path.iterdir()] == ["fr-en.safetensors"]
    again = load_translator(path)
    assert (again.width, again.length_penalty, again.batch_size, again.max_tokens) == (
        2,
        0.5,
        3,
        30,
    )
    assert again(FRENCH) == translator(FRENCH)
    decoder = again.model.to(torch.float64).to(torch.float32).decoder
    assert decoder.out.weight is decoder.embedding.weight
    with torch.no_grad():
        decoder.embedding.weight.zero_()
    assert not decoder.out.weight.any()


def test_another_process_translates_the_same(tmp_path):
    translator, sizes = made(width=2)
    path = translator.save(tmp_path / "fr-en.safetensors", GRUTranslator, sizes)
    program = (
        "import sys\nfrom exp import load_translator\n"
        "print(load_translator(sys.argv[1])(sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path, *FRENCH],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == str(translator(FRENCH)), done.stderr


def test_files_of_other_things_are_refused(tmp_path):
    translator, sizes = made()
    path = export_model(translator.model, tmp_path / "model.safetensors", GRUTranslator, sizes)
    with pytest.raises(ValueError, match="holds a model, but no vocabularies"):
        load_translator(path)
    saved = translator.save(tmp_path / "t.safetensors", GRUTranslator, sizes)
    with pytest.raises(ValueError):
        load_translator(saved, trusted=["torch.nn"])
    with pytest.raises(ValueError):
        translator.save(tmp_path / "t.safetensors", GRUTranslator, {**sizes, "hidden_size": 13})
