"""Messages written by rule from what happened: feelings that the situation gives away, complaints and their like."""

import random

from task import Row, Task, namings

# {who} a person, {thing} a possession, {when} a time, {where} a place; no label word among them
EVENTS = {
    "anger": "{who} lied to my face|{who} broke my {thing} and did not even say sorry|{who} took the credit for my "
    "work|somebody stole my {thing} {when}|{who} cancelled on me again {when}|the neighbours played loud music all "
    "night|{who} parked across my drive again|they charged me twice and will not answer|{who} was rude to the "
    "waitress|{who} talks about me behind my back|they cut the line in front of an old lady|{who} never listens to a "
    "word I say|{who} left all the dirty dishes for me|they raised the rent again|{who} laughed at my accent|the "
    "driver shut the door in my face|{who} read my private letters|they promised a call back and nobody called|{who} "
    "kicked my dog|the council dug up the road for the third time|{who} keeps interrupting me|they blamed me for "
    "something {who} did|{who} wrote lies about us|people throw rubbish in our garden|{who} borrowed my {thing} and "
    "sold it|they treat us like dirt|{who} shouted at the kids|how dare {who} speak to me like that|I was ignored "
    "for an hour at the counter|{who} thinks rules are for other people|the boss gave my shift away|they fired {who} "
    "by text|he cheated on my sister|some idiot scratched my {thing}|politicians lie and we pay|{who} slammed the "
    "door in my face|they spoiled the ending on purpose|{who} made fun of my {thing}|what a disgrace, nobody takes "
    "the blame",
    "joy": "{who} got engaged|we won the final {when}|I passed my exam|{who} surprised me with a {thing}|the baby "
    "smiled at me {when}|I got the job|we danced all night at {where}|{who} is finally home|my {thing} arrived and "
    "it is perfect|best day at {where} with {who}|I finished my first marathon|{who} made me laugh until I cried|"
    "holidays start {when}|the sun is out and the coffee is good|our team scored in the last minute|{who} got into "
    "the school of her dreams|the test came back clear|I sold my first painting|we are getting married {when}|my "
    "little girl took her first steps|{who} baked my favourite cake|tickets for the concert are mine|we saw dolphins "
    "at {where}|{who} called just to say she loves me|my garden is full of flowers|we moved into our own house|a "
    "stranger paid for my lunch|I woke up smiling|puppy cuddles all morning|the doctor says {who} is well again|my "
    "book is in the shop window|{who} and I are friends again|what a party {when}|all of us round one table at last|"
    "I can swim a whole length now|first snow and hot chocolate|they gave me a standing ovation|he is alive and well|"
    "I am so proud of {who}|grandma learned to send me pictures",
    "fear": "there is somebody at the back door|{who} is not home yet and it is past midnight|I have to speak in "
    "front of everyone {when}|the lump is still there|the plane dropped and people screamed|I heard steps behind me "
    "in {where}|the results come {when} and I cannot sleep|my hands shake before every exam|what if {who} does not "
    "wake up|the lights went out in {where}|the dog showed its teeth|they may close the factory|the water is rising "
    "in the street|a spider the size of my hand is over the bed|the doctor wants to see me again {when}|what if I "
    "lose the baby|I hate flying and we leave {when}|the brakes did not work for a second|my heart pounds whenever "
    "the phone rings|a strange car waits outside our house|{who} has a fever and it keeps climbing|I dreamed of "
    "falling again|what if nobody comes|I start at a new school {when}|they say the war may come here|the stairs "
    "creaked and I am alone|the operation is {when}|I cannot look down from {where}|the boat started to fill with "
    "water|what will happen to us if I lose my job|I think I am being followed|the letter from the court came {when}|"
    "something moved in the dark|I forgot everything the night before the exam|the smoke is coming nearer|{who} "
    "stopped answering the phone in the storm|I am dreading {when}|please let it not be serious|the lift stopped "
    "between two floors",
    "sadness": "{who} died {when}|we buried {who} {when}|I miss {who} every day|{who} moved away and the house is "
    "silent|nobody came to my birthday|my dog was put to sleep {when}|we broke up {when}|his chair is still empty|I "
    "found her old letters {when}|I did not get the job|her side of the wardrobe is bare|I cry whenever I hear that "
    "song|the last bookshop in town has closed|Christmas without {who}|I ate alone again {when}|mum does not know my "
    "name any more|we had to sell the house I grew up in|he looked right through me|all my friends have gone|I lost "
    "the baby|it rains and I have nobody to call|I should have called {who} one more time|I still lay the table for "
    "two|they are taking down the old tree|{who} does not love me any more|I gave away her clothes {when}|no message "
    "from {who} for a year|our team went down and the season is over|I let everybody down|my best friend forgot me|"
    "the old {thing} she gave me is broken for good|I cannot get out of bed|nothing feels worth it now|it is over "
    "and I feel empty|I failed again, maybe I am no good|the nest in the garden is empty|he left before I woke up|my "
    "grandfather's watch has stopped|we said goodbye at {where} for the last time",
    "optimism": "tomorrow is a new day|we will get through this together|keep going, it gets better|I know I can do "
    "it|every ending is a new start|never give up on your dreams|the best is still to come|one step at a time and we "
    "get there|believe in yourself|I will try again {when}|things are looking up|next year will be our year|have "
    "faith, it will work out|hard work pays off in the end|I can feel it, this time it will go well|there is light "
    "at the end|trust the process|{who} will be well again soon|do not worry, good times are coming|stay strong, "
    "brighter days are ahead|a smile can change the day|I am ready for whatever comes|we can make this town better|"
    "whatever happens, I will stand up again|small steps lead to big things|looking forward to a fresh start {when}",
}
FEELING_WORDS = {
    "anger": "so fed up|I am furious|I am fuming|this makes my blood boil|I have had enough|so annoyed|absolutely "
    "livid|how dare they|unbelievable|I am raging|what a joke|it makes me mad|I could scream|sick of it|I am "
    "outraged|so irritating|I hate this|disgusting|bloody cheek|I am so angry",
    "joy": "so happy|over the moon|I cannot stop smiling|yay|best feeling ever|I am thrilled|woohoo|I love it|so "
    "proud|what a day|I am delighted|life is good|I feel wonderful|finally|so excited|happy tears|I am so glad|"
    "hooray|feeling blessed|pure bliss",
    "fear": "I am terrified|so nervous|I am scared|I am shaking|I cannot breathe|so worried|I am panicking|please "
    "help|my stomach is in knots|what do I do|I feel sick with worry|I am frightened|so anxious|heart racing|I dread "
    "it|it gives me the creeps|I do not dare to move|horrible feeling|I am so afraid|goosebumps",
    "sadness": "I feel so low|my heart is broken|I cannot stop crying|so lonely|I am devastated|it hurts so much|"
    "tears everywhere|I feel empty|so sad|I miss it all|I am heartbroken|such a loss|I feel lost|it breaks my heart|"
    "down again|gutted|I feel so alone|miserable|what is left|I am grieving",
    "optimism": "stay positive|I have hope|keep smiling|onwards|I believe it|let us do this|hopeful|be brave|new "
    "beginnings|good things take time",
}
SLOTS = {
    "who": "my brother|my sister|my boss|my mother|dad|my best friend|my neighbour|my son|my daughter|he|she|my "
    "husband|my wife|grandma|my teacher|the man next door|my flatmate|Tom|Anna|my cousin|my uncle|our coach|my "
    "girlfriend",
    "thing": "phone|bike|car|laptop|guitar|jacket|camera|watch|ring|book|bag|garden|tent|coat|letter|piano|boat",
    "when": "today|last night|this morning|on Monday|yesterday|tonight|tomorrow|next week|on my birthday|at work|"
    "this weekend|in June|an hour ago|after school|on Friday",
    "where": "the station|the beach|the park|the tower|the hospital|the old bridge|the theatre|the lake|the airport|"
    "the cellar|the stadium|grandpa's farm|the market|the church",
}
TAGS = {
    "anger": "#fedup #angry #rant #wtf #notok",
    "joy": "#happy #blessed #love #yay #goodday :)",
    "fear": "#nervous #scared #anxiety #help #nightmare",
    "sadness": "#sad #lonely #missyou #heartbroken :(",
    "optimism": "#hope #positivity #motivation #believe #newstart",
}


def fill_slots(frame: str, slots: dict[str, str], rng: random.Random) -> str:
    """Return the frame with a word drawn for each slot."""
    return frame.format(**{name: rng.choice(words.split("|")) for name, words in slots.items()})


def write_feeling(rng: random.Random) -> Row:
    """Return a message about something that happened, and the feeling of its writer."""
    feeling = rng.choice(list(EVENTS))
    event = fill_slots(rng.choice(EVENTS[feeling].split("|")), SLOTS, rng)
    other = fill_slots(rng.choice(EVENTS[feeling].split("|")), SLOTS, rng)
    words = rng.choice(FEELING_WORDS[feeling].split("|"))
    tag = rng.choice(TAGS[feeling].split())
    forms = [
        f"{event}.",
        f"{event}!",
        f"{event}...",
        f"{words}, {event}.",
        f"{words}! {event}",
        f"{event}. {words}.",
        f"{event} and {words}.",
        f"{event} {tag}",
        f"{words} {tag}",
        f"{words} because {event}.",
        f"{event}. {other}.",
        f"can you believe it, {event}!" if feeling in ("anger", "joy") else f"I keep thinking about it: {event}.",
        f"since {event} I feel like this: {words}.",
    ]
    text = rng.choice(forms)
    return text[0].upper() + text[1:] if rng.random() < 0.7 else text, feeling


# what a company did wrong, and what else people write to one; {it} is a thing bought, {staff} who works there
GRIEVANCES = (
    "my {it} has been late three times this month|your {staff} hung up on me|the {it} I paid for never came|you "
    "charged me for a {it} I never ordered|I have been waiting {long} and nobody answers|the {it} broke after one "
    "use|your {staff} was rude and laughed at me|the room was dirty and the sheets were stained|the food was cold "
    "and the bill was wrong|still no refund for my {it}|the app logs me out every time since the update|you lost my "
    "{it} and now you say it is my fault|the heating has been off {long}|my appointment was cancelled without a word|"
    "the bus drove past us again|you promised a call on Monday and it is Thursday|the {it} looks nothing like the "
    "picture|I was on hold {long}|the price went up and the service went down|the {it} smells and the seams are torn|"
    "nobody told us the flight was moved|the parcel was left in the rain|the bins have not been emptied {long}|your "
    "{staff} sent me from desk to desk|you took the money twice|the internet drops every evening|the toilets were "
    "filthy|we sat {long} before anybody took our order|the new {it} has the same fault as the old one|you keep "
    "sending me other people's letters|the website ate my form for the third time|the machine swallowed my card and "
    "nobody cared|I got half of what I ordered|your {staff} cannot even spell my name|the noise from your building "
    "site starts at five|my contract ended and you still take money|the {it} came with a part missing|the school "
    "lost my son's papers again"
)
FOLLOWS = (
    "I want my money back|please sort this out|this is not good enough|what are you going to do about it|I am very "
    "disappointed|never again|I expect an answer today|fix it|is this how you treat customers|I will go elsewhere|"
    "shame on you|I would like to speak to a manager|it is a joke|and you call that service|how hard can it be|not "
    "what I paid for|I am still waiting|nobody seems to care|poor, very poor|thanks for nothing"
)
PRAISE = (
    "I like your shop, but |the food is lovely, yet |great, |well done, |brilliant, |your {staff} was kind, but |"
    "normally you are good, but |with all respect, |not to be a nuisance, but |thank you for the flowers, only "
)
CALM = (
    "what time do you open on {day}|is there a menu for children|how much is the {it}|do you have the {it} in blue|I "
    "would like to change my address|please send me a copy of my bill|where do I find the form for a new {it}|thank "
    "you, the {it} works perfectly|your {staff} was wonderful, please tell her|we loved every minute, see you next "
    "year|I ordered a {it} by mistake, may I return it|is there parking near your office|could you tell me when the "
    "{it} will be back in stock|I lost my card, it was my own fault, how do I get a new one|the other company broke "
    "it and you repaired it in a day|there was a mix-up but your {staff} put it right at once, thanks|we missed our "
    "slot because of a puncture and you found us another|a tree has fallen on the road by the station|the street "
    "lamp outside number nine is out|the delay was a pity, but the refund came the same day|I was ready to be angry "
    "and then your {staff} sorted it in two minutes|I dropped my {it}, do you repair such things|I am looking for a "
    "job, do you need a {staff}|do you deliver on {day}|just a note to say the {it} is great|I am allergic to nuts, "
    "which dishes are safe|happy birthday to your team|can I pay by card|is the pool open on {day}|no hurry, but I "
    "would like to know more about the {it}|my train was awful but your hotel made up for it|I had heard terrible "
    "things, none of them true|sorry I missed your call, please try again|the old {it} died after ten years, which "
    "one do you recommend|please add my daughter to the booking|the bug I wrote about is gone, thank you|could we "
    "have a quiet room this time|my neighbour's dog barks all night, is that something for you|I cancelled because I "
    "broke my leg, nothing to do with you|what do I need to bring on {day}"
)
MAIL_SLOTS = {
    "it": "phone|order|parcel|washing machine|ticket|jacket|laptop|card|bike|sofa|dress|lamp|coffee machine|book|bed|"
    "television|router|fridge|coat|pair of shoes|cake|subscription|key|meter|passport",
    "staff": "driver|waiter|manager|clerk|receptionist|agent|guide|nurse|teacher|trainer|technician|cashier",
    "long": "two hours|a week|for ten days|since Monday|for a month|forty minutes|all morning|three weeks",
    "day": "Monday|Saturday|Sunday|Friday|Easter|the holidays|Wednesday morning",
}
OPENERS = "Hi|Hello|Dear team|Good morning|hey|Excuse me|To whom it may concern|Hi there".split("|")


def write_mail(rng: random.Random) -> Row:
    """Return a message to a company or an office, and whether it is a complaint."""
    is_complaint = rng.random() < 0.5
    body = fill_slots(rng.choice((GRIEVANCES if is_complaint else CALM).split("|")), MAIL_SLOTS, rng)
    if is_complaint and rng.random() < 0.6:
        body += rng.choice((". ", ", ", "! ", " and ", "... ")) + rng.choice(FOLLOWS.split("|"))
    elif not is_complaint and rng.random() < 0.3:
        body += rng.choice((", please", ", thanks", ". Thank you", ". Best wishes", ". Many thanks in advance"))
    if is_complaint and rng.random() < 0.2:
        body = fill_slots(rng.choice(PRAISE.split("|")), MAIL_SLOTS, rng) + body
    elif rng.random() < 0.25:
        body = f"{rng.choice(OPENERS)}, {body}"
    mark = "?" if body.startswith(("what", "can", "how", "do ", "is ", "where", "could")) else rng.choice(".!.")
    text = body + rng.choice((mark, mark, mark, ""))
    return text[0].upper() + text[1:] if rng.random() < 0.75 else text, "complaint" if is_complaint else "other"


def situation_tasks(rng: random.Random, *, feelings: int = 30_000, mails: int = 30_000) -> list[Task]:
    """Return the tasks on what happened: the writer's feeling, and whether a company is complained to."""
    felt = list(dict.fromkeys(write_feeling(rng) for _ in range(feelings)))
    sent = list(dict.fromkeys(write_mail(rng) for _ in range(mails)))
    ask = (
        "What emotion is in the text?",
        "How does the writer feel?",
        "Name the emotion.",
        "Which feeling does the message show?",
        "What does the writer feel?",
        "Classify the emotion of the text.",
    )
    return [
        Task(
            "feeling of a situation",
            [row for row in felt if row[1] != "optimism"],
            (*ask, "Is it anger, joy, fear or sadness?"),
            namings("anger joy fear sadness", "angry happy afraid sad", "furious glad scared unhappy"),
            share=3,
        ),
        Task(
            "feeling of a situation with hope",
            [row for row in felt if row[1] != "fear"],
            (*ask, "Is it anger, joy, optimism or sadness?"),
            namings("anger joy optimism sadness", "angry happy hopeful sad"),
            share=2,
        ),
        Task(
            "mail to a company",
            sent,
            (
                "Is this message a complaint?",
                "Does the writer complain?",
                "Does the writer report a problem?",
                "Is the customer unhappy?",
                "Classify the message as complaint or no complaint.",
            ),
            namings("complaint other", "complaint/no complaint", "yes no", "unhappy/not unhappy"),
            share=4,
        ),
    ]
