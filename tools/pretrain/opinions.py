"""Opinions and complaints written by rule from word lists: evaluative words in many frames."""

import random

from task import Row, Task, namings

GOOD = (
    "good great excellent wonderful lovely charming delightful brilliant superb splendid marvellous"
    " beautiful moving funny witty clever warm touching gripping fresh honest thoughtful elegant lively rich"
    " sweet graceful powerful memorable inspired satisfying entertaining engaging fascinating amusing"
    " hilarious exciting thrilling impressive stunning remarkable perfect fine pleasant tender smart"
    " intelligent original imaginative subtle moving absorbing enjoyable refreshing comfortable delicious"
    " friendly helpful reliable generous careful kind cheerful bright uplifting rewarding sincere vivid"
    " spirited heartfelt captivating masterful poignant compelling terrific"
    " accomplished affecting affectionate agreeable ambitious appealing apt astonishing astute authentic awesome"
    " beguiling believable beloved bittersweet bold breathtaking breezy buoyant candid capable chilling cinematic"
    " classy cohesive colorful compassionate complex convincing cool crisp cute daring dazzling deft delicate"
    " detailed dignified disarming droll dynamic earnest easygoing ebullient effective effortless electrifying"
    " eloquent energetic enchanting endearing enthralling epic escapist evocative exceptional exhilarating expert"
    " exquisite extraordinary exuberant eye-popping fabulous faithful fantastic feel-good first-rate fluid fun"
    " gentle genuine gifted glorious gorgeous gracious grand harrowing heartbreaking heartwarming high-spirited"
    " hopeful humane humorous hypnotic impeccable incisive ingenious insightful inspirational inspiring intense"
    " intimate intriguing inventive irresistible joyous keen laugh-out-loud lavish light-hearted likable luminous"
    " lush lyrical magical magnetic majestic mature meaningful melodic memorable mesmerizing meticulous"
    " mischievous nimble nuanced observant outstanding passionate perceptive phenomenal playful poetic polished"
    " powerful precise profound provocative quirky raucous revealing riveting romantic savvy scary seductive"
    " sensitive sharp shrewd soulful sparkling spectacular startling steady stirring strong stylish sublime"
    " sumptuous superlative suspenseful sweet-natured sympathetic tasteful taut"
    " thought-provoking timely timeless touching tough triumphant true unforgettable"
    " unexpected unpretentious well-acted well-made well-written whimsical winning wise wry zesty"
).split()
BAD = (
    "bad awful terrible horrible dreadful dull boring tedious silly stupid weak poor clumsy flat empty"
    " shallow cheap slow tired stale predictable pointless messy confused lifeless cold ugly annoying"
    " irritating disappointing forgettable bland pretentious sloppy tiresome foolish absurd ridiculous lazy"
    " hollow crude unpleasant unfunny miserable dismal ordinary heavy-handed overlong contrived incoherent"
    " sentimental dreary wretched disgusting rude broken useless noisy dirty unreliable careless hopeless"
    " depressing painful mediocre trite shoddy laughable mindless grating plodding uninspired amateurish"
    " inept worthless nasty vulgar insulting"
    " aimless amateur anemic arid artificial awkward banal barren belaboured bewildering bleak bloated bloodless"
    " blunt bogus botched by-the-numbers cartoonish chaotic cheesy cliched cloying clunky clueless cold-hearted"
    " conventional corny cringe-worthy crass cynical damaged dated dense derivative desperate"
    " desultory dim disjointed dopey drab dumb embarrassing exasperating excruciating exhausting failed fake"
    " far-fetched fatuous faulty feeble flawed flimsy forced formulaic fuzzy garbled generic gimmicky glib gloomy"
    " gross half-baked hackneyed half-hearted haphazard harsh heartless humourless hysterical idiotic"
    " ill-conceived illogical immature implausible inane inadequate incomprehensible indifferent indulgent"
    " ineffective inert insipid insufferable insincere irrelevant jumbled juvenile labored lackluster lame leaden"
    " limp listless long-winded low-rent ludicrous lukewarm lumbering maddening manipulative mawkish meandering"
    " mean-spirited meaningless mechanical misguided monotonous muddled mundane murky nauseating nonsensical"
    " numbing obnoxious obvious odious off-putting offensive one-dimensional overacted overblown overdone"
    " overwrought patchy pathetic pedestrian perfunctory phony plain plotless pompous preachy pretentious prosaic"
    " punishing puerile pallid ragged rambling random repetitive repugnant repulsive ridiculous rotten rushed"
    " sappy schlocky self-indulgent senseless shameless sketchy sluggish smug soggy sour soulless spineless static"
    " stilted strained stupefying sugary superficial tasteless tepid thin tiring toothless torpid tortured turgid"
    " ugly unbearable unconvincing undercooked underwhelming uneven unimaginative uninteresting uninvolving"
    " unoriginal unsatisfying unwatchable vacuous vapid vile violent warmed-over watery wasted weightless witless"
    " wooden wrong-headed"
).split()
GOOD_VERBS = (
    "delighted,moved,charmed,amused,thrilled,impressed,won us over,surprised us in the best way,touched the"
    " heart,made us laugh,kept us awake for joy,deserves every praise,works beautifully,shines,never bores,"
    "held our attention,was worth every minute,is a pleasure from start to finish,left us smiling,is among"
    " the best of the year"
).split(",")
BAD_VERBS = (
    "bored us,failed,dragged,fell apart,wasted our time,made no sense,put us to sleep,left us cold,never"
    " came alive,went nowhere,annoyed everyone,was a waste of money,ran out of ideas,tries too hard,is a"
    " chore from start to finish,never made us laugh,insulted our intelligence,is among the worst of the"
    " year,lost its way,should be avoided"
).split(",")
WORKS = (
    "film movie story comedy drama book novel play song concert show performance plot script cast acting"
    " picture thriller romance documentary direction music dialogue ending character tale sequel adventure"
).split()
THINGS = "meal hotel room service waiter trip garden shop dinner house town lesson teacher game phone coat".split()
ABOUT = (
    "about love and loss,about a family in trouble,about growing up,with a heart,about two brothers,set in a small"
    " town,about war,from first scene to last,about nothing much,for children and adults,with songs,in every way,about"
    " friendship,about a crime,told in ninety minutes,from a first-time director,about old age,about a dog"
).split(",")
PEOPLE = "the director,the cast,the leading lady,the hero,the writer,the camera,the star,her voice,the editor".split(
    ","
)
GIFTS = "moments,laughs,ideas,scenes,jokes,characters,surprises,twists,images,songs,lines,performances".split(",")
VIRTUES = (
    "charm,wit,energy,heart,depth,life,humour,warmth,imagination,suspense,fun,soul,grace,intelligence,spark,originality"
    ",passion,ideas,style,feeling,tension,magic,truth,laughs"
).split(",")
BROKEN = (
    "arrived broken,never arrived,stopped working after a day,keeps crashing,is missing a part,was sent to"
    " the wrong house,has been late three times,does not turn on,makes a terrible noise,fell apart in a"
    " week,was charged twice,still has not come,was cancelled without notice,smells awful,leaks everywhere,"
    "has no signal again,is out of order"
).split(",")
WANTED = (
    "nobody answers my calls,I want my money back,I have waited two weeks,this is not good enough,please fix"
    " it,I am very disappointed,why does this always happen,nobody could help me,I will not buy from you"
    " again,what a mess"
).split(",")
BOUGHT = (
    "order parcel phone card ticket laptop train bus internet package washing machine,heater,app,website,"
    "room,lamp,bill,account,chair,flight,bicycle,oven,printer,jacket"
).replace(" ", ",").split(",")  # fmt: skip
CALM = (
    "What time do you open tomorrow?,Thanks for the quick help!,Do you sell {} parts?,I just bought a new"
    " {}.,How much is the {}?,My {} arrived today and I love it.,Looking forward to seeing the new {}.,Is"
    " the {} in stock?,The {} works perfectly and thank you.,Where can I read about the {}?,Great service"
    " when I picked up my {}.,Can I change the colour of my {}?,I am off to the park with my {}.,Which {}"
    " would you recommend?,You fixed my {} in no time and I am grateful.,I will collect the {} on Monday."
).split(",")


def write_opinion(rng: random.Random) -> Row:
    """Return one remark on a work or a thing, and whether it is positive or negative."""
    is_good = rng.random() < 0.5
    words, verbs = (GOOD, GOOD_VERBS) if is_good else (BAD, BAD_VERBS)
    others, other_verbs = (BAD, BAD_VERBS) if is_good else (GOOD, GOOD_VERBS)
    noun = rng.choice(WORKS if rng.random() < 0.75 else THINGS)
    a, b, c = rng.sample(words, 3)
    contrary = rng.choice(others)
    very = rng.choice(["", "", "very ", "truly ", "really ", "quite ", "deeply ", "utterly "])
    seems = rng.choice(["is", "was", "feels", "felt", "seems"])
    spoils = "save it" if is_good else "ruin it"
    enjoy = rng.choice(("enjoy", "care about", "sit through", "believe", "recommend", "forgive"))
    article = "an" if (very or a)[0] in "aeiou" else "a"
    frames = [
        f"{article} {very}{a} {noun}",
        f"{article} {very}{a}, {b} {noun}.",
        f"the {noun} {seems} {very}{a} and {b}.",
        f"the {noun} {rng.choice(verbs)}.",
        f"{article} {very}{a} {noun} that {rng.choice(verbs)}.",
        f"{a}, {b} and {c}.",
        f"this {noun} {seems} {very}{a}, and the {rng.choice(WORKS)} {rng.choice(verbs)}.",
        f"not {contrary} at all: the {noun} {seems} {a}.",
        f"it could have been {contrary}, but the {noun} {rng.choice(verbs)}.",
        f"although the {rng.choice(WORKS)} {seems} {contrary}, the {noun} {rng.choice(verbs)}.",
        f"the {noun} {seems} anything but {contrary}.",
        f"despite {rng.choice(['its', 'the'])} {contrary} {rng.choice(WORKS)}, it {rng.choice(verbs)}.",
        f"i expected {rng.choice(['something', 'a ' + noun])} {contrary} and it {seems} {a}.",
        f"there is nothing {contrary} about this {noun}.",
        f"one of the most {a} {noun}s i know.",
        f"people say it {rng.choice(other_verbs)}, yet to me it {rng.choice(verbs)}.",
        f"what {article} {very}{a} {noun}!",
        f"{a} and {b}, {rng.choice(ABOUT)}.",
        f"as {a} as it is {b}.",
        f"{a} without ever being {contrary}.",
        f"more {a} than {contrary}.",
        f"neither {contrary} nor {rng.choice(others)}, just {a}.",
        f"{article} {a} {rng.choice(WORKS)} {rng.choice(ABOUT)}, {b} and {c}.",
        f"the {rng.choice(WORKS)} may be {contrary}, but the {noun} is {a} enough to {spoils}.",
        f"{rng.choice(PEOPLE)} {rng.choice(('makes', 'turns', 'keeps'))} the {noun} {a} and {b}.",
        f"{a} {rng.choice(WORKS)}, {b} {rng.choice(WORKS)} and {article} {very}{a} {noun}.",
        f"it never becomes {contrary}, {rng.choice(ABOUT)}.",
        f"the kind of {noun} that {rng.choice(verbs)}.",
        f"if you like {a} {rng.choice(WORKS)}s, this one {rng.choice(verbs)}." if is_good else f"too {a} to {enjoy}.",
        f"{rng.choice(('offers', 'gives us', 'is full of', 'delivers'))} {a} {rng.choice(GIFTS)} and {b} {noun}s.",
        f"{rng.choice(('lacks', 'has none of', 'is short on', 'could use more'))} {rng.choice(VIRTUES)}."
        if not is_good
        else f"{rng.choice(('full of', 'rich in', 'it has', 'never short of'))} {rng.choice(VIRTUES)}.",
    ]
    text = " ".join(rng.choice(frames).split()).replace("ys i know", "ies i know")
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text, "positive" if is_good else "negative"


def write_message(rng: random.Random) -> Row:
    """Return one message to a company, and whether it is a complaint."""
    thing = rng.choice(BOUGHT)
    if rng.random() < 0.5:
        return rng.choice(CALM).format(thing), "other"
    trouble, want = rng.choice(BROKEN), rng.choice(WANTED)
    frames = [
        f"My {thing} {trouble}.",
        f"My {thing} {trouble} and {want}.",
        f"{want[0].upper()}{want[1:]}. The {thing} {trouble}.",
        f"The {thing} I bought {trouble}, {want}!",
        f"Again the {thing} {trouble}. {want[0].upper()}{want[1:]}.",
        f"Why is it that the {thing} {trouble}?",
    ]
    return rng.choice(frames), "complaint"


def opinion_tasks(rng: random.Random, *, opinions: int = 30_000, messages: int = 6_000) -> list[Task]:
    """Return the tasks on written opinions and messages."""
    ask = (
        "Is the review positive or negative?",
        "Does the critic like it?",
        "What does the writer think of it?",
        "What is the tone of the text?",
        "Classify the sentiment.",
    )
    return [
        Task(
            "review",
            list(dict.fromkeys(write_opinion(rng) for _ in range(opinions))),
            ask,
            namings("positive negative", "good bad", "yes no", "great terrible", "likes dislikes"),
            share=4,
        ),
        Task(
            "written complaint",
            list(dict.fromkeys(write_message(rng) for _ in range(messages))),
            ("Is this message a complaint?", "Does the customer complain?", "Is the customer unhappy?"),
            namings("complaint other", "complaint/no complaint", "yes no"),
            share=0.5,
        ),
    ]
