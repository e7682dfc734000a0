"""Word lists behind the questions that `questions.py` makes: what a noun asks for, and what may stand beside it."""

# the noun after "what" or "which" decides the kind of the answer
HEADS = {
    "person": "man woman person actor actress author king queen president singer writer general poet player doctor"
    " boy girl lady gentleman officer teacher captain scientist painter composer inventor explorer emperor bishop"
    " artist musician novelist architect philosopher physicist chemist astronaut pilot politician senator"
    " governor mayor minister chancellor prince princess duke pope saint monk prophet pharaoh dictator leader"
    " ruler founder chairman director comedian dancer drummer guitarist pianist conductor playwright journalist"
    " footballer boxer swimmer golfer runner athlete coach champion goalkeeper surgeon nurse biologist"
    " mathematician astronomer economist historian engineer designer chef cook detective spy pirate outlaw"
    " assassin murderer hero heroine villain character god goddess wizard husband wife father mother son"
    " daughter brother sister uncle soldier sailor knight warrior admiral judge lawyer billionaire model"
    " sculptor photographer cartoonist storyteller student child baby monarch",
    "place": "city country state town place street river island mountain continent county village lake sea road"
    " building house port region capital station ocean university planet desert forest valley bay gulf strait"
    " peninsula volcano waterfall canyon park garden square bridge tower castle palace cathedral church temple"
    " mosque museum library theatre stadium airport harbour hotel school college hospital prison province"
    " district republic nation kingdom territory colony suburb borough beach coast cave glacier canal border"
    " area location site spot land moon crater avenue market zoo cemetery battlefield resort",
    "time": "year day month date hour century decade season time weekday period moment birthday",
    "number": "number percentage price cost population age amount distance height weight length speed temperature"
    " size share quantity rate depth width salary score total sum fraction frequency altitude duration"
    " circumference diameter volume density latitude wage percent proportion",
    "thing": "animal book film movie song colour color food drink language sport game instrument ship bird flower"
    " plant disease dog train car newspaper word currency religion metal stone tree fish product play weapon dish"
    " machine insect mammal reptile snake spider horse cat breed dinosaur fruit vegetable spice herb cheese wine"
    " beer cake sauce meat grain gas liquid mineral gem element chemical acid vitamin drug medicine poison illness"
    " organ bone muscle gland nerve tool device invention vehicle aircraft plane boat rocket satellite computer"
    " program website magazine poem opera symphony album painting statue comic series show musical novel story"
    " legend award prize medal trophy flag symbol sign shape letter alphabet dance festival holiday"
    " event war battle treaty law crime job profession hobby toy card fabric material garment hat shoe coin stamp"
    " crop seed nut fuel substance dessert soup bread sandwich cocktail"
    " monster creature instrument part ingredient object item",
}
MEASURES = (
    "many much far old long tall high deep fast large big often heavy wide hot cold small thick young late"
).split()
ADJECTIVES = (
    "famous great old small young French Italian German Russian American British Spanish Chinese Indian Greek Roman"
    " African Australian Irish Japanese Mexican ancient modern medieval popular rare common large foreign English"
    " national legendary fictional mythical northern southern tiny giant wild red blue black white green first last"
    " second third only main other"
).split()
SUPERLATIVES = (
    "biggest smallest oldest youngest tallest fastest richest longest largest highest first last deepest heaviest"
    " best-known rarest coldest hottest strongest"
).split()
WHERE_IN = (
    "in the world,in Europe,in Africa,in Asia,in the United States,in history,on earth,of all time,in South America,"
    "in England,in the Bible,in the sea,in space,in the human body,in Canada,in India,of the last century,in China"
).split(",")
VERB_ENDS = (
    "won the war,is on the flag,lost the final,was found in {name},comes from {name},lives in {name},appears in the"
    " story of {name},begins with the letter {letter},was named after {name},was sold for a million,was the first to"
    " reach {name},has the most {bare}s,is known for its {bare},is used to make {noun},gave its name to {name},"
    "saved {name},carries {noun},is next to {name},lies south of {name},is the home of {name},discovered {noun},"
    "played {name} in the film,wrote about {noun},led the army at {name},is found near {name},has no {bare},"
    "was built for {name},belongs to {name},was killed at {name},has a {bare} on it,is called the {bare} of {name},"
    "killed {name},was destroyed in a fire,rules {name},produces the most {bare},is sacred to {name},eats {bare}"
).split(",")
# {short} is an abbreviation, {long} the words behind it, {noun} has its article, {bare} has none
FRAMES = {
    "place": (
        "Where is {name}?",
        "Where was {name} born?",
        "What is the capital of {name}?",
        "Where can I find {noun}?",
        "In what {place} is {name}?",
        "What {place} is the home of {name}?",
        "Where do they make the {bare}?",
        "Where did {name} live?",
        "Where did the {bare} come from?",
        "Where does the {bare} grow?",
        "In which {place} was {name} born?",
        "From which {place} does {name} come?",
        "To what {place} did {name} go?",
        "Near which {place} is {name}?",
        "On which {place} would you find {noun}?",
        "At which {place} did {name} die?",
        "Through which {place} does the {bare} run?",
        "Where would you go to see {noun}?",
        "Where on earth is {name}?",
        "Where's the {bare} of {name}?",
        "In which part of the world do people eat {bare}?",
        "What {place} does {name} come from?",
        "Into what {place} does the {bare} flow?",
    ),
    "time": (
        "When was {name} born?",
        "In what year did {name} die?",
        "When did {name} begin?",
        "What year was the {bare} invented?",
        "When is {name}?",
        "What day does {name} fall on?",
        "On what date did {name} end?",
        "In which century was {name} built?",
        "When was the first {bare} made?",
        "What {time} was {name} founded?",
        "In which {time} was the {bare} discovered?",
        "when did {name} become {noun}",
        "What date is {name}?",
        "When do {bare}s start?",
        "Since when has there been {noun} in {name}?",
    ),
    "number": (
        "How many people live in {name}?",
        "What is the population of {name}?",
        "How old is {name}?",
        "How {measure} is {noun}?",
        "How much does {noun} cost?",
        "How many {bare}s are there in {name}?",
        "What is the average {number} of {noun}?",
        "How {measure} is {name}?",
        "How long does it take to make {noun}?",
        "What is the {number} of {name}?",
        "What's the {number} of the {bare}?",
        "At what {number} does {noun} fall?",
        "What {number} of people have {noun}?",
        "How many {bare}s does {noun} have?",
        "How many times did {name} win?",
        "how many {place}s are there in {name}",
        "How many {person}s were there at {name}?",
        "How much {bare} is in {noun}?",
        "What did {noun} cost in those days?",
        "At what age did {name} die?",
        "Give me the {number} of {name}.",
        "To how many {bare}s does {noun} go?",
        "What percent of {bare} is {thing}?",
        "How {measure} was {name} at the end?",
    ),
    "person": (
        "Who invented the {bare}?",
        "Who wrote {name}?",
        "What is the name of the {person} of {name}?",
        "Who discovered {name}?",
        "Who was the first {person} of {name}?",
        "Who is the {person} of {name}?",
        "Who was the {person} that found the {bare}?",
        "Whose {bare} was it?",
        "Whose {thing} is {name}?",
        "Name the {person} who made {name}.",
        "By whom was {name} built?",
        "To which {person} was {name} married?",
        "Which {person}'s {bare} is {name}?",
        "What is the real name of the {person}?",
        "Who played the {person} in {name}?",
        "what {person} said that about {name}",
        "Who killed {name}?",
        "Who owns {name}?",
        "With whom did {name} work?",
        "What was the name of {name}'s {person}?",
        "Tell me the name of the {person} of the {bare}.",
        "Who does the {bare} in {name}?",
    ),
    "definition": (
        "What is {noun}?",
        "What is the meaning of {bare}?",
        "What does {bare} mean?",
        "What are {bare}s?",
        "What is {bare}?",
        "Define {bare}.",
        "What is the difference between {bare} and {bare2}?",
        "What is meant by {bare}?",
        "What does it mean to {bare} a {bare2}?",
        "what does the word {bare} mean",
        "What exactly is {noun}?",
        "Explain what {noun} is.",
    ),
    "manner": (
        "How does {noun} work?",
        "How do you make {noun}?",
        "How did {name} die?",
        "How can I get {noun}?",
        "How do I find {name}?",
        "How was {name} built?",
        "How is {noun} made?",
        "How are {bare}s caught?",
        "how do {bare}s sleep",
        "Describe how {noun} is made.",
        "Explain how {noun} works.",
        "Tell me how to clean {noun}.",
        "How did {name} become {noun}?",
        "In what way is {noun} like {noun2}?",
        "What is the best way to clean {noun}?",
        "What happens to {noun} in the rain?",
        "What does {noun} do?",
        "What is the {bare} like?",
        "How would you describe {name}?",
        "How can you tell {noun} from {noun2}?",
    ),
    "reason": (
        "Why is the {bare} important?",
        "Why did {name} leave?",
        "Why do people like {name}?",
        "What causes {noun}?",
        "Why does {noun} move?",
        "For what reason did {name} go?",
        "What is the purpose of {noun}?",
        "What was the cause of {name}?",
        "why are {bare}s {adjective}",
        "What made {name} leave {name2}?",
        "What is the history of the {bare}?",
        "What is the origin of the word {bare}?",
        "What is the story of {name} about?",
        "What is the function of {noun}?",
        "What is the effect of {bare} on {bare2}?",
        "What is the idea behind {noun}?",
        "What is {name} famous for?",
        "How come {noun} is so {adjective}?",
        "Give me the reason why {name} fell.",
    ),
    "thing": (
        "What {thing} is {name} known for?",
        "What is the name of the {thing} in {name}?",
        "What is {noun} made of?",
        "What kind of {thing} is {name}?",
        "What {thing} has the largest {bare}?",
        "What is the best {bare} in the world?",
        "What do you call {noun} with no {bare2}?",
        "What's the word for a group of {bare}s?",
        "What did {name} invent?",
        "What did {name} eat?",
        "What do {bare}s eat?",
        "What do they speak in {name}?",
        "In which {thing} does {name} appear?",
        "With what {thing} do you cut {noun}?",
        "What type of {thing} is used for the {bare}?",
        "What sort of {thing} lives in the {bare}?",
        "On which {thing} is {name} based?",
        "Which {thing} did {name} write?",
        "Name a {thing} from {name}.",
        "Name {noun} made of {bare2}.",
        "From what {thing} is {bare} made?",
        "What {thing} do people play in {name}?",
        "What {thing} comes from {noun}?",
        "For which {thing} did {name} become famous?",
        "What was {name}'s first {thing} called?",
        "what {thing} has {adjective} {bare}s",
        "What is another word for {bare}?",
        "What was stolen from {name}?",
        "What can you buy in {name}?",
        "What colour is {noun}?",
        "What does {name} sell?",
    ),
    "abbreviation": (
        "What does {short} stand for?",
        "What does the abbreviation {short} mean?",
        "What is the abbreviation for {long}?",
        "What is the full form of {short}?",
        "What do the letters {short} stand for?",
        "what's {short} short for",
        "What is {short} short for?",
        "{short} is short for what?",
        "What is {long} called for short?",
        "How do you abbreviate {long}?",
        "How is {long} abbreviated?",
        "What is the short form of {long}?",
        "What does the {letter} in {short} stand for?",
        "What does {short} mean on a {bare}?",
        "If I see {short} on a {bare}, what does it stand for?",
        "Which words does {short} stand for?",
        "Which words make up {short}?",
        "Spell out {short}.",
        "Write out {short} in full.",
        "{short} is an acronym for what?",
        "What is the acronym for {long}?",
        "What words hide behind the letters {short}?",
        "What are the initials of {long}?",
        "What is the two letter code for {name}?",
        "What is the country code of {name}?",
        "What is the airport code of {name}?",
        "What is the chemical symbol for {bare}?",
        "What letters are used for {long}?",
        "In chat, what does {short} mean?",
        "I keep reading {short}, what does it stand for?",
        "when people say {short} what do the letters mean",
        "Tell me what {short} stands for.",
        "What is {short} an abbreviation of?",
        "Expand {short}.",
        "Which abbreviation is used for {long}?",
        "Give me the short form of {bare}.",
    ),
}
