"""Tasks from the labelled utterances: tone, emotions, intents, complaints, topics, speakers."""

import random
from collections import defaultdict
from collections.abc import Sequence

from task import Row, Task, namings, own_names, relabel

POSITIVE = "admiration amusement approval caring excitement gratitude joy love optimism pride relief"
NEGATIVE = "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse sadness"
EMOTIONS = {
    "anger": "anger annoyance disgust",
    "joy": "joy excitement amusement love relief pride",
    "fear": "fear nervousness",
    "sadness": "sadness grief disappointment remorse",
    "surprise": "surprise",
    "optimism": "optimism caring",
}
# bank messages in which something went wrong, and those that only ask
BANK_PROBLEMS = (
    "Refund_not_showing_up balance_not_updated_after_bank_transfer"
    " balance_not_updated_after_cheque_or_cash_deposit beneficiary_not_allowed card_arrival card_not_working"
    " card_payment_fee_charged card_payment_not_recognised card_payment_wrong_exchange_rate card_swallowed"
    " cash_withdrawal_charge cash_withdrawal_not_recognised compromised_card contactless_not_working"
    " declined_card_payment declined_cash_withdrawal declined_transfer direct_debit_payment_not_recognised"
    " extra_charge_on_statement failed_transfer lost_or_stolen_card pending_card_payment"
    " pending_cash_withdrawal pending_transfer pending_top_up pin_blocked top_up_failed top_up_reverted"
    " transaction_charged_twice transfer_fee_charged transfer_not_received_by_recipient"
    " unable_to_verify_identity virtual_card_not_working wrong_amount_of_cash_received"
    " wrong_exchange_rate_for_cash_withdrawal account_blocked card_declined damaged_card lost_luggage"
    " report_fraud"
)
BANK_QUESTIONS = (
    "age_limit apple_pay_or_google_pay atm_support automatic_top_up card_acceptance card_delivery_estimate"
    " change_pin country_support disposable_card_limits edit_personal_details exchange_via_app"
    " fiat_currency_support get_disposable_virtual_card get_physical_card getting_spare_card"
    " getting_virtual_card order_physical_card supported_cards_and_currencies top_up_limits"
    " topping_up_by_card transfer_timing visa_or_mastercard transfer_into_account receiving_money"
    " verify_source_of_funds thank_you greeting restaurant_suggestion travel_suggestion weather recipe"
    " credit_score income interest_rate reminder book_hotel book_flight"
)
AREAS = {
    "travel": "book_flight book_hotel car_rental carry_on flight_status international_visa lost_luggage"
    " plug_type timezone translate travel_alert travel_notification travel_suggestion vaccines exchange_rate",
    "food": "accept_reservations cancel_reservation confirm_reservation restaurant_reservation"
    " restaurant_reviews restaurant_suggestion calories cook_time food_last how_busy"
    " ingredient_substitution ingredients_list meal_suggestion nutrition_info recipe",
    "money": "account_blocked apr balance bill_balance bill_due credit_limit credit_limit_change"
    " credit_score card_declined direct_deposit freeze_account income interest_rate international_fees"
    " min_payment new_card order_checks pay_bill pin_change report_fraud report_lost_card rewards_balance"
    " spending_history taxes transactions transfer",
    "car": "directions gas gas_type jump_start last_maintenance mpg oil_change_how oil_change_when"
    " schedule_maintenance tire_change tire_pressure traffic uber",
    "work": "insurance meeting_schedule payday pto_balance pto_request pto_request_status pto_used"
    " rollover_401k schedule_meeting w2",
    "home": "alarm calendar calendar_update next_song play_music reminder reminder_update shopping_list"
    " shopping_list_update smart_home timer todo_list todo_list_update update_playlist order order_status",
    "chat": "are_you_a_bot do_you_have_pets fun_fact goodbye greeting how_old_are_you meaning_of_life"
    " tell_joke thank_you what_are_your_hobbies what_can_i_ask_you what_is_your_name where_are_you_from"
    " who_do_you_work_for who_made_you flip_coin roll_dice",
}


def labelled_tasks(rows: dict[str, list[Row]], rng: random.Random) -> list[Task]:
    """Return the tasks that follow from `labelled_rows`."""
    return _emotion_tasks(rows["emotion"], rng) + _request_tasks(rows, rng)


def _emotion_tasks(emotion: list[Row], rng: random.Random) -> list[Task]:
    tone = relabel(emotion, {"positive": POSITIVE, "negative": NEGATIVE})
    with_neutral = relabel(emotion, {"positive": POSITIVE, "negative": NEGATIVE, "neutral": "neutral"})
    groups = relabel(emotion, EMOTIONS)
    four = [row for row in groups if row[1] in ("anger", "joy", "fear", "sadness")]
    tweet = [row for row in groups if row[1] in ("anger", "joy", "optimism", "sadness")]
    ask_emotion = (
        "What emotion is in the text?",
        "How does the writer feel?",
        "Name the emotion.",
        "Classify the emotion of the text.",
        "Which feeling does the message show?",
        "Tell me the emotion of the sentence.",
        "What does the writer feel?",
        "Choose the emotion that fits.",
    )
    tasks = [
        Task(
            "tone",
            tone,
            (
                "Is the text positive or negative?",
                "What is the tone of the text?",
                "Classify the tone.",
                "Classify the sentiment.",
                "What is the sentiment of the sentence?",
                "Is the opinion good or bad?",
                "Say whether the writer is pleased or not.",
                "Decide if this is a positive or a negative remark.",
            ),
            namings(
                "positive negative",
                "good bad",
                "happy unhappy",
                "pleased displeased",
                "Positive Negative",
                "great terrible",
                "favourable/unfavourable",
            ),
            share=3,
        ),
        Task(
            "tone with neutral",
            with_neutral,
            (
                "Is the text positive, negative or neutral?",
                "What is the sentiment?",
                "Classify the sentiment.",
            ),
            namings("positive negative neutral", "good bad neither"),
        ),
        Task(
            "four emotions",
            four,
            (*ask_emotion, "Is it anger, joy, fear or sadness?"),
            namings(
                "anger joy fear sadness",
                "angry happy afraid sad",
                "furious glad scared unhappy",
                "Anger Joy Fear Sadness",
            ),
            share=2.5,
        ),
        Task(
            "four emotions with hope",
            tweet,
            (*ask_emotion, "Is it anger, joy, optimism or sadness?"),
            namings("anger joy optimism sadness", "angry happy hopeful sad", "anger joy hope sorrow"),
            share=2,
        ),
        Task("six emotions", groups, ask_emotion, namings("anger joy fear sadness surprise optimism")),
        Task("emotion", [r for r in emotion if r[1] != "neutral"], ask_emotion, own_names(emotion), share=1.5),
    ]
    asides = {
        "gratitude": (
            "Does the writer say thanks?",
            "gratitude",
            "admiration approval joy neutral curiosity annoyance",
        ),
        "surprise": (
            "Is the writer surprised?",
            "surprise realization",
            "neutral joy approval annoyance sadness",
        ),
        "anger": (
            "Is the writer angry?",
            "anger annoyance",
            "joy neutral sadness gratitude optimism curiosity",
        ),
        "joy": (
            "Is the writer happy?",
            "joy excitement amusement",
            "anger sadness fear neutral disappointment",
        ),
        "sadness": (
            "Is the writer sad?",
            "sadness grief remorse disappointment",
            "joy anger neutral amusement",
        ),
        "fear": ("Is the writer afraid?", "fear nervousness", "joy anger neutral sadness amusement"),
        "confusion": ("Is the writer puzzled?", "confusion curiosity", "joy anger neutral admiration"),
        "love": ("Does the writer love something?", "love", "anger neutral sadness surprise disapproval"),
        "feeling": ("Does the text show a feeling?", POSITIVE + " " + NEGATIVE, "neutral"),
        # held out: no other task asks for approval
        "approval": ("Does the writer agree or disagree?", "approval", "disapproval"),
    }
    for name, (instruction, yes, no) in asides.items():
        held_out = name == "approval"
        words = namings("yes no", "agree disagree") if held_out else namings("yes no", "Yes No", "true false")
        tasks.append(
            Task(
                f"is it {name}",
                relabel(emotion, {"yes": yes, "no": no}),
                (instruction,),
                words,
                0.4,
                held_out,
            )
        )
    tasks.append(_same_class("same emotion", groups, "Do both writers feel the same?", rng))
    return tasks


def _request_tasks(rows: dict[str, list[Row]], rng: random.Random) -> list[Task]:
    bank, request, topic, speaker = rows["bank"], rows["request"], rows["topic"], rows["speaker"]
    emotion = rows["emotion"]
    requests = bank + request
    trouble = relabel(requests, {"complaint": BANK_PROBLEMS, "other": BANK_QUESTIONS})
    # a fifth of the emotional remarks: bank messages are the larger part
    remarks = relabel(
        emotion,
        {"complaint": "annoyance disappointment", "other": "gratitude admiration approval neutral curiosity"},
    )
    complaints = trouble + rng.sample(remarks, len(remarks) // 4)
    areas = relabel(request, AREAS)
    topics = [(text, label) for text, label in topic if label not in ("services", "media", "travel")]
    intent = ("What does the writer want?", "Name the intent of the message.", "Classify the request.")
    return [
        Task(
            "complaint",
            complaints,
            (
                "Is this message a complaint?",
                "Does the writer complain?",
                "Does the writer report a problem?",
                "Is something wrong for the writer?",
                "Decide whether the customer complains.",
                "Classify the message as complaint or no complaint.",
            ),
            namings(
                "complaint other",
                "complaint/no complaint",
                "yes no",
                "problem/no problem",
                "problem fine",
                "unhappy/not unhappy",
            ),
            share=1.5,
        ),
        Task("bank intent", bank, ("What does the bank customer want?", *intent), own_names(bank), 2),
        Task("request intent", request, ("What does the user want?", *intent), own_names(request), 2),
        Task(
            "area",
            areas,
            ("What is this message about?", "Name the topic.", "Which area does the request belong to?"),
            own_names(areas),
            1.5,
        ),
        Task(
            "service",
            topics,
            ("Which service does the user need?", "What is it about?", "Name the topic."),
            own_names(topics),
        ),
        Task(
            "speaker",
            speaker,
            ("Who says this?", "Is this the user or the assistant?", "Who is speaking?"),
            namings("user assistant", "customer clerk", "guest host", "client agent"),
        ),
        # held out: a pair of areas asked for as yes and no
        Task(
            "is it travel",
            [(text, "yes" if label == "travel" else "no") for text, label in areas],
            ("Is this about a journey?",),
            namings("yes no"),
            is_held_out=True,
        ),
        _same_class("same request", requests, "Do both messages ask for the same thing?", rng),
    ]


def _same_class(name: str, rows: Sequence[Row], instruction: str, rng: random.Random, *, pairs: int = 8000) -> Task:
    """Return a task on pairs of texts: same class or not, half of each."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for text, label in rows:
        by_class[label].append(text)
    names = sorted(label for label, texts in by_class.items() if len(texts) > 1)
    made = []
    for _ in range(pairs):
        one, other = rng.sample(names, 2)
        first = rng.choice(by_class[one])
        is_same = rng.random() < 0.5
        second = rng.choice(by_class[one if is_same else other])
        made.append((f"{first} / {second}", "same" if is_same else "different"))
    return Task(name, made, (instruction, "Same or different?"), namings("same different", "yes no"), 0.7)
