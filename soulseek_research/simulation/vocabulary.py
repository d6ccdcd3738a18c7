"""The words that searches are made of, in many scripts and languages: generic words and syllables, no real titles."""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """What names and titles of one script are made of."""

    name: str
    share: float
    """The share of people who mostly search in it."""
    utc_offset_hours: int
    """Where its people live, roughly: their evening is when they search."""
    names: tuple[str, ...]
    """Pieces that are put together to an artist's name."""
    joint: str
    """What stands between the pieces of a name."""
    words: tuple[str, ...]
    """Words that titles are made of."""
    space: str
    """What stands between the words of a title."""


def _script(
    name: str, share: float, offset: int, names: str, words: str, *, joint: str = "", space: str = " "
) -> Script:
    return Script(name, share, offset, tuple(names.split()), joint, tuple(words.split()), space)


SCRIPTS: tuple[Script, ...] = (
    _script(
        "english", 0.44, -5,
        "ar bel cor dan el far gor hal in jor kel lor mar nor ol per quin ros sel tor ul ver wil xan yor zen mo ri ka",
        "blue night river stone garden empty window silver morning machine paper winter house broken signal golden "
        "shadow field northern letters glass hollow thunder static velvet harbour distant orchard concrete summer "
        "electric wolves black honey mirror salt ocean lantern forgotten kingdom rust light ghost motel sugar highway "
        "copper saints cinema parade fever bloom tiny planet desert radio crystal iron feathers midnight pilot",
    ),
    _script(
        "accented", 0.24, 1,
        "äl bø çe dór él für gå hé ín jö kúl lô mü ñan ós pé rû sá tři üb vår wę žen ły ğan őr să şi",
        "nacht straße größe über küche mädchen été forêt château garçon leçon noël canción corazón mañana señor "
        "coração canções ilusão não città perché così łódź żółty święto pieśń příběh hvězda kůň růže gökyüzü şarkı "
        "ışık yağmur skärgård drömmar själ ystävä yö hyvää tűz virág őszi țară câmpie fjörð þögn ævintýri blåbær",
    ),
    _script(
        "cyrillic", 0.09, 3,
        "бел вер гор дор жар зим кол лун мир нев пол рос сол тих ум фер хор цвет чер шум яр",
        "ночь звезда город река снег песня ветер огонь зеркало дорога весна тишина корабль стена птица солнце дождь "
        "лес поле сердце память поезд небо вода камень голос україна пісня їжак ніч вітер свято љубав ђердан џез",
        joint="о",
    ),
    _script(
        "greek", 0.02, 2,
        "αλ βερ γαλ δελ ερ ζην θαλ κορ λυρ μελ νικ ορ παν ροδ στελ φιλ χρυσ ψυχ",
        "νύχτα θάλασσα τραγούδι καρδιά ήλιος φεγγάρι δρόμος όνειρο βροχή αγάπη πόλη σκιά άνεμος φωτιά μουσική",
        joint="ο",
    ),
    _script(
        "japanese", 0.06, 9,
        "アオ 桜 月 ユキ 星 ハル 風 ミナ 空 夜 カゼ 海 リン 森 ソラ 花 ナツ 雨",
        "夜の 東京 物語 夢 さくら 光 ひかり 旅 青い 雨 ラブソング 夏 時間 約束 サウンドトラック 全集 世界 手紙",
        space="",
    ),
    _script(
        "chinese", 0.04, 8,
        "林 王 小 龍 雪 梅 月 海 山 風 雲 天 星 玉 青",
        "夜 城市 愛情 月亮 音樂 故事 夢 雨 我的 春天 世界 河流 歌曲 经典 专辑 无损 合集 现场 老歌 电影 原声",
        space="",
    ),
    _script(
        "korean", 0.03, 9,
        "김 하늘 별 바다 은 서 준 달 봄 나무 소리 빛 강",
        "밤 사랑 노래 서울 비 꿈 여름 이야기 바람 겨울 눈물 약속 시간 하루 앨범 별빛",
    ),
    _script(
        "arabic", 0.03, 2,
        "نور سمر ليل قمر بدر ريم فجر أمل زهر بحر",
        "ليل حب قمر أغنية قلب صحراء مدينة نجمة بحر ذكريات موسيقى شمس طريق",
        joint=" ",
    ),
    _script(
        "hebrew", 0.02, 2,
        "אור גל ים שיר נעם טל רון עדן זיו ניר",
        "לילה אהבה ירח שיר לב מדבר עיר כוכב ים זיכרון שמש דרך חלום",
        joint=" ",
    ),
    _script(
        "thai", 0.03, 7,
        "ดาว ฟ้า ลม ฝน จันทร์ น้ำ ไม้ แสง ทะเล",
        "คืน ความรัก เพลง หัวใจ ทะเล เมือง ฝัน ฝน แสงจันทร์ รวมเพลง ลูกทุ่ง",
        space="",
    ),
)  # fmt: skip

# How people narrow a search.
FORMATS = ("flac", "mp3", "320", "FLAC", "mp3 320", "vinyl", "v0", "24bit", "lossless", "web", "CD", "wav", "24-96")
EXCLUSIONS = ("-live", "-remix", "-karaoke", "-live -remix", "-cover", "-instrumental", "-mp3", "-demo")
EXTRAS = ("discography", "live", "remix", "deluxe edition", "ep", "instrumental", "extended mix", "remastered", "demo",
          "bootleg", "soundtrack", "feat.", "(radio edit)", "vol. 2", "b-sides", "unreleased")  # fmt: skip
GENRES = ("jungle", "dub techno", "shoegaze", "black metal", "bossa nova", "city pop", "free jazz", "krautrock", "zouk",
          "gqom", "footwork", "ambient", "cumbia", "rebetiko", "gamelan", "drone", "hardcore", "lovers rock", "soul",
          "field recordings", "sample pack", "breaks", "italo disco", "grime", "fado", "klezmer")  # fmt: skip
EMOJI = ("🎵", "🔥", "❤️", "🌙", "👩‍🎤", "🇧🇷", "✨", "💿")

# Usernames: two of these and a number.
HANDLES = ("vinyl", "night", "dusty", "cassette", "bass", "moon", "crate", "static", "lofi", "echo", "turbo", "silent",
           "acid", "velvet", "retro", "lost", "cosmic", "soul", "noise", "analog")  # fmt: skip
CREATURES = ("fox", "digger", "cat", "head", "rider", "owl", "wolf", "junkie", "bird", "boy", "girl", "monk", "ghost",
             "pirate", "hermit", "collector", "tape", "robot", "king", "listener")  # fmt: skip
