"""Words in scripts of the world: what counts as one, what looks alike is alike, and what differs differs."""

import sys
import unicodedata
from itertools import combinations

import pytest
import regex

from myllm.data.contamination import contamination
from myllm.data.corpus import Document
from myllm.data.dedup import n_words, near_duplicates, shingles, words

SPACED = {  # the beginning of the Universal Declaration of Human Rights, and another sentence
    "English": (
        "All human beings are born free and equal in dignity and rights.",
        "Everyone has the right to life, liberty and security of person.",
    ),
    "French": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Chacun peut se prévaloir de tous les droits et de toutes les libertés.",
    ),
    "Greek": (
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
        "Κάθε άτομο έχει δικαίωμα στη ζωή, την ελευθερία και την προσωπική του ασφάλεια.",
    ),
    "Russian": (
        "Все люди рождаются свободными и равными в своём достоинстве и правах.",
        "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.",
    ),
    "Arabic": (
        "يُولَدُ جميعُ الناسِ أحرارًا متساوين في الكرامةِ والحقوق.",
        "لكل فردٍ الحقُّ في الحياة والحرية وسلامة شخصه.",
    ),
    "Hebrew": (
        "כׇּל בְּנֵי הָאָדָם נוֹלְדוּ בְּנֵי חוֹרִין וְשָׁוִים בְּעֶרְכָּם וּבִזְכֻיּוֹתֵיהֶם.",
        "לכל אדם הזכות לחיים, לחירות ולביטחון אישי.",
    ),
    "Hindi": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है।",
    ),
    "Tamil": (
        "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
        "வாழ்வதற்கும் சுதந்திரமாக இருப்பதற்கும் எல்லோருக்கும் உரிமை உண்டு.",
    ),
    "Korean": (
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
        "모든 사람은 생명과 신체의 자유와 안전에 대한 권리를 가진다.",
    ),
    "Vietnamese": (
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
        "Mọi người đều có quyền sống, quyền tự do và an toàn cá nhân.",
    ),
}
UNSPACED = {
    "Chinese": ("人人生而自由，在尊严和权利上一律平等。", "人人有权享有生命、自由和人身安全。"),
    "Japanese": (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
        "すべて人は、生命、自由及び身体の安全に対する権利を有する。",
    ),
    "Thai": (
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
        "คนทุกคนมีสิทธิในการดำเนินชีวิต ในเสรีธรรมและในความมั่นคงแห่งร่างกาย",
    ),
    "Khmer": (
        "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងសមភាពក្នុងផ្នែកសេចក្ដីថ្លៃថ្នូរនិងសិទ្ធិ",
        "បុគ្គលម្នាក់ៗមានសិទ្ធិរស់រានមានជីវិត មានសេរីភាព និងសន្តិសុខផ្ទាល់ខ្លួន",
    ),
    "Burmese": (
        "လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခါဖြင့် လည်းကောင်း မွေးဖွားလာသူများ ဖြစ်သည်။",
        "လူတိုင်း၌ အသက်ရှင်ရန် လွတ်မြောက်မှု အခွင့်အရေး ရှိသည်။",
    ),
    "Lao": (
        "ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ສິດທິ ເສລີພາບ ແລະ ຄວາມສະເໝີພາບເທົ່າທຽມກັນ",
        "ທຸກຄົນມີສິດທິໃນການດຳລົງຊີວິດ ໃນອິດສະຫຼະພາບ ແລະ ໃນຄວາມປອດໄພຂອງຕົນ",
    ),
}
ALL = SPACED | UNSPACED


def alike(one, other, n=5):
    """The similarity that two texts are found with; None where they are not found."""
    found = near_duplicates([Document("a", one), Document("b", other)], 0.01, n=n)
    return found[0][2] if found else None


def share(train, test, n=13):
    return contamination([Document("a", train)], [Document("b", test)], n=n)["b"]


# What is a word


@pytest.mark.parametrize("script", SPACED)
def test_words_stand_between_spaces_and_punctuation(script):
    """Whole, with every combining mark: `\\w` of Python's `re` cuts Hindi and Tamil words to pieces."""
    for text in SPACED[script]:
        expected = [word.strip(".,।") for word in text.split()]
        assert words(text) == [unicodedata.normalize("NFKC", word.casefold()) for word in expected]
        assert n_words(text) == len(expected)


@pytest.mark.parametrize("script", UNSPACED)
def test_a_script_without_spaces_is_cut_between_letters(script):
    """Nothing is lost, marks stay with their letter, and the lengths of words are near the true ones."""
    for text in UNSPACED[script]:
        found = words(text)
        letters = "".join(
            c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c)[0] in "LMN"
        )
        assert "".join(found) == letters
        assert [len(regex.findall(r"\P{M}", item)) for item in found] == [1] * len(found)
        assert n_words(text) * (2 if script in ("Chinese", "Japanese") else 3) == len(found)


def test_every_letter_mark_and_digit_of_unicode_is_in_a_word_and_nothing_else_is():
    invisible = regex.compile(r"\p{Default_Ignorable_Code_Point}")
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if (
            category == "Cn"
            or invisible.match(character)
            or unicodedata.normalize("NFKC", character) != character
        ):
            continue
        assert bool(words(character)) == (category[0] in "LMN" and character != "\u0640"), hex(code)


def test_words_by_example():
    assert words("Don’t stop, “naïve” café_bar v2.0!") == [
        "don",
        "t",
        "stop",
        "naïve",
        "café",
        "bar",
        "v2",
        "0",
    ]
    assert words("Straße STRASSE ΟΔΟΣ οδός") == ["strasse", "strasse", "οδοσ", "οδόσ"]
    assert words("कि की का") == ["कि", "की", "का"]  # that, of (feminine), of (masculine)
    assert words("我用 Python 3 写代码") == ["我", "用", "python", "3", "写", "代", "码"]
    assert words("カタカナー々〇") == [*"カタカナー々〇"]
    assert words("— … 🙂 \ud800") == []


# What looks alike is alike

DISGUISES = {
    "composed": lambda text: unicodedata.normalize("NFC", text),
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "compatible": lambda text: unicodedata.normalize("NFKD", text),
    "capitals": str.upper,
    "soft hyphens": lambda text: regex.sub(r"(?<=\p{L}\p{L})(?=\p{L})", "\u00ad", text),
    "zero-width spaces": lambda text: regex.sub(r"(?<=\p{L})(?=\p{L})", "\u200b", text),
    "joiners and selectors": lambda text: regex.sub(r"(?<=\w)(?=\s)", "\u200d\ufe0f\u2060", text),
    "a byte-order mark": lambda text: "\ufeff" + text,
    "other spaces": lambda text: text.replace(" ", "\u3000\n"),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("script", ALL)
def test_a_copy_that_looks_the_same_is_found(script, disguise):
    for text in ALL[script]:
        assert alike(text, DISGUISES[disguise](text)) == 1.0
        assert share(DISGUISES[disguise](text) * 2, text, n=3) == 1


def test_full_width_letters_ligatures_and_half_width_kana():
    assert words("Ｆｕｌｌ ﬁnd ﾊﾟﾋﾟﾌﾟ") == words("full find パピプ")
    assert words("محـــمد") == words("محمد")  # stretched by tatweel


# What differs differs


@pytest.mark.parametrize("script", ALL)
def test_two_sentences_of_one_language_are_no_copies(script):
    """Thirteen letters of a script without spaces are three words, and any two texts share such runs."""
    one, other = ALL[script]
    assert alike(one, other) is None
    assert share(one, other, n=5) == 0
    assert share(one + " " + other, other) == 1


def test_one_letter_more_does_not_hide_a_copy():
    for script in UNSPACED:
        text = "".join(UNSPACED[script])
        edited = text[: len(text) // 2] + text[0] + text[len(text) // 2 :]
        assert alike(text, edited, n=3) > 0.5


def test_a_common_name_is_no_contamination():
    """The name of the University of Tokyo, and Bangkok's, in texts about different things."""
    assert (
        share(
            "昨日、東京大学大学院情報理工学系研究科を見た。",
            "東京大学大学院情報理工学系研究科の学生が勝った。",
        )
        == 0
    )
    assert share("เขาไปกรุงเทพมหานครในวันนี้", "ฝนตกที่กรุงเทพมหานครในวันก่อน") == 0


def test_vowel_signs_make_words_differ():
    """Without its marks each line is the same row of consonants."""
    lines = ["राम की किताब", "रोम का कुतुब", "रूम के कीताब"]
    for one, other in combinations(lines, 2):
        assert alike(one, other, n=2) is None


def test_a_short_text_is_one_run_in_every_script():
    for text in ("人", "人人", "ก", "yes", "हाँ"):
        assert len(shingles(text)) == 1
        assert share(f"{text}。", text) == 1
        assert share(f"before {text} after", text) == 1
    assert share("大人", "大") == 1
    assert share("小人", "大") == 0
