"""The English words that reading a question needs: closed classes whole, open classes by their commonest members.

A word in none of the lists counts as a noun. That is the safe side: an adjective that is taken for a part of the noun's name
leaves a statement about the same thing ("a spotless plate"), while a noun taken for something else would lose the thing.
"""

from __future__ import annotations

from typing import Final


def listed(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


# ---- closed classes ----

DEFINITE: Final = listed("the this that these those")
POINTING: Final = listed("this that these those")
POSSESSIVE: Final = listed("my your his her its our their whose")
INDEFINITE: Final = listed("a an another")
VAGUE: Final = listed("any some no every each either neither")  # what they stand before is not taken for granted
NUMBERS: Final = listed(
    "one two three four five six seven eight nine ten eleven twelve dozen hundred thousand first second third "
    "fourth fifth last next"
)
AMOUNTS: Final = listed("all both many much few several most more less fewer enough other others half only same single")
QUESTION_WORDS: Final = listed("what which who whom whose where when why how whats")
BE: Final = listed("is are was were am be been being")
DO: Final = listed("do does did")
HAVE: Final = listed("has have had having")
MODALS: Final = listed("can could will would should may might must shall cannot")
PEOPLE_PRONOUNS: Final = listed("he she him her they them himself herself themselves his hers theirs their")
PRONOUNS: Final = PEOPLE_PRONOUNS | listed(
    "i me we us you it its mine yours ours itself yourself myself someone somebody anyone anybody everyone "
    "everybody nobody something anything nothing everything none"
)
CONJUNCTIONS: Final = listed(
    "and or but nor than as if whether because while so though although since unless versus vs"
)
PREPOSITIONS: Final = listed(
    "about above across after against along alongside amid among amongst around at atop before behind below "
    "beneath beside besides between beyond by down during except facing for from in inside into like near "
    "nearest nearby of off on onto opposite out outside over past per through throughout to toward towards under "
    "underneath until up upon via with within without"
)
ADVERBS: Final = listed(
    "very too really also just still not n't never ever even already always often usually sometimes again almost "
    "quite rather pretty clearly currently probably likely possibly actually maybe perhaps here there now then "
    "today together apart away forward backward backwards upward upwards downward downwards sideways straight "
    "outdoors indoors upright upstairs downstairs overhead underwater apparently exactly about approximately "
    "roughly alone else instead once twice well yet soon abroad anywhere somewhere everywhere nowhere please "
    "ahead aside ago yes no ok okay least correctly properly fully completely mostly mainly entirely partially "
    "easily safely naturally recently normally"
)

# ---- open classes ----

COLORS: Final = listed(
    "red orange yellow green cyan blue purple pink white black gray grey brown beige tan teal turquoise violet "
    "magenta maroon navy gold golden silver cream lavender burgundy khaki crimson scarlet indigo"
)
SIZES: Final = listed("small large big little tiny huge tall short long wide narrow thin thick giant enormous")
ADJECTIVES: Final = (
    COLORS
    | SIZES
    | listed(
        "able gross necessary back far fast hard alcoholic aerobatic athletic active adult afraid alive alike angry "
        "antique appropriate asian asleep attentive attractive authentic automatic available awake awesome bad bald "
        "bare barefoot beautiful bent best better blank blind blonde blond blurry blurred bored boring bottom brave "
        "bright broken brunette bumpy burnt busy calm candid careful casual caucasian cautious cheap cheerful chilly "
        "chinese chubby civilian classic clean clear closed closer closest cloudy cluttered cold colder colorful "
        "colourful comfortable common commercial complete comparable concerned confused content contemporary cool "
        "correct cozy crazy crispy crooked crowded curious curly curved curvy cute daily damp dangerous dark dead "
        "deadly deep deciduous delicious dense different difficult dirty domestic domesticated double dried drunk "
        "dry dull dusty early easy edible elderly electric electronic elegant empty enclosed equal european even "
        "evergreen everyday excited exotic expensive expired extra fair fake familiar famous fancy farthest "
        "fashionable fat fatter faux feathered female fierce filthy final fine firm fit flat floral flowery fluffy "
        "foggy folded foreign formal free fresh friendly frightened frozen full fun functional funny furnished furry "
        "furthest gas-powered gay generic gentle girly glad glossy good grassy great greater greasy grouchy grumpy "
        "hairy handicapped handmade handsome handy happy hardwood hazardous hazy healthy heavy high higher highest "
        "hilly hispanic homemade horizontal hot hotter human humid hungry icy identical ill illegal impatient "
        "important incomplete indoor industrial inner intact interested interesting irritated japanese jealous "
        "joyful juicy just-married kosher large larger largest late lazy leafless leafy left left-handed legal "
        "legible level likely lit live local lone lonely long-haired longer longest loose lost loud low lower lowest "
        "loving mad main major male manual married masculine mature maximum medium mental messy middle military "
        "misty mixed modern moist mountainous muddy multicolored multiple muslim mute muted native natural naked "
        "nasty nearby neat nervous neutral new newer nice nighttime noisy normal nude nutritious obese obvious "
        "occupied odd official oily old older oldest open opposite ordinary organic original ornate outdoor outer "
        "outgoing outside overcast overweight own paired pale parallel parental patient patriotic patterned paved "
        "peaceful perfect perpendicular pet-friendly plain plastic playful pleasant pleased polka-dotted polluted "
        "poor popular portable possible powerful precise pregnant present pretty private professional proper proud "
        "public pure quick quiet rainy rare raw ready real realistic rear recent recreational rectangular reflective "
        "related relaxed reliable religious remote residential responsible rich right right-handed ripe rocky "
        "romantic rotten rough round rude rural rusty sad safe salty same sandy scared scary scenic scruffy secure "
        "serious shady shaggy shallow sharp shiny shirtless shorter shortest shut shy sick significant silent silly "
        "similar simple skinny sleepy sliced slim slippery sloped slow small-sized smaller smallest smart smiley "
        "smooth snowy sober soft soggy solid sophisticated sour southern spacious spare special specific spicy "
        "spotted square-shaped stable stale standard static steady steamy steep sterile stiff stormy strange "
        "straight stray striped strong stuck stuffed stupid sturdy stylish sufficient suitable sunny super sure "
        "surprised suspicious sweaty sweet symmetrical talented taller tallest tame tame tasty tattered "
        "technological teenage temporary tender thermal thicker thinner thirsty tidy tied tight tilted tired toasted "
        "top touristy toxic traditional transparent tropical true trustworthy typical ugly unhappy unhealthy uniform "
        "unique united unusual upper upset upside-down urban used useful usual vacant valid valuable vegan "
        "vegetarian vertical vicious vintage visible warm warmer wary waterproof wavy weak wealthy weary weird wet "
        "wealthy whole wild windy wise wooden woolen worldly worn worried worse wrinkled wrinkly wrong young younger "
        "youngest yummy overgrown upside rainbow-colored nearest main brighter darker cleaner bigger biggest wider "
        "widest older happier farther further closer heavier lighter faster slower stronger american french italian "
        "british english german mexican spanish indian african chinese western eastern northern southern christian "
        "catholic jewish amused annoyed ashamed athletic aware awkward bulky circular cylindrical oval rectangular "
        "triangular hexagonal spherical conical oblong"
    )
)
# Adjectives that stand before their noun as parts of a name: where one follows a noun it is another noun.
ALSO_NOUNS: Final = listed(
    "orange gold silver cream square light glass plastic human adult female male pet gas level top bottom middle "
    "back front left right side rear back inside outside fit content present mute native official original "
    "patient public uniform standard remote stable spare double second fun fat cold live best navy tan teal "
    "lavender violet chinese left"
)
COMPARATIVES: Final = listed(
    "bigger larger smaller taller shorter longer wider thinner thicker older younger newer closer nearer farther "
    "further higher lower heavier lighter darker brighter faster slower greater fatter warmer colder hotter "
    "better worse more less biggest largest smallest tallest shortest longest widest oldest youngest newest "
    "closest nearest farthest furthest highest lowest heaviest lightest darkest brightest fastest slowest "
    "greatest best worst most least leftmost rightmost"
)
# Base forms that are hardly ever nouns: after "does the ..." the first of them ends the subject.
SURE_VERBS: Final = listed(
    "have has look looks seem seems appear appears need needs want wants like likes match matches belong belongs "
    "contain contains show shows say says wear wears hold holds know knows have has eat eats sit sits go goes "
    "come comes get gets make makes take takes think thinks see sees believe believes indicate indicates include "
    "includes enjoy enjoys own owns carry carries bring brings become becomes happen happens involve involves "
    "suggest suggests read reads write writes represent represents require requires allow allows require help "
    "helps keep keeps throw throws catch catches ride rides use uses feel feels fit fits face faces reach "
    "reaches touch touches speak speaks stand stands lean leans exist exists resemble resembles depict depicts "
    "remain remains connect connects overlap overlaps tell tells give gives consist consists lie lies lay hang "
    "hangs attach pull pulls push pushes drink drinks grow grows fly flies swim swims hit hits open opens turn "
    "turns add describe name point points extend extends blend blends lead leads move moves live lives work "
    "works taste tastes smell smells mean means offer offers prefer prefers sell sells serve serves support "
    "supports begin begins start starts end ends play plays run runs walk walks bite bites wait waits try tries "
    "cover covers cross crosses apply fall falls face faces sleep sleeps bark barks bend bends buy buys cook "
    "cooks cut cuts dance dances hide hides jump jumps kick kicks leave leaves listen listens love loves pass "
    "passes pay pays put puts reflect reflects save saves shine shines ski skis surf surfs smile smiles swing "
    "swings talk talks travel travels treat visit wash wave waves win wins yield be been occur share shares care "
    "cares protect protects pose poses"
)
# Of those, the ones that are as often nouns: they end a subject only where nothing else does.
NOUNS_TOO: Final = listed(
    "match matches show shows face faces work works play plays run runs walk walks waves wave cover covers cross "
    "crosses end ends point points fly flies fall falls ride rides cut cuts dance swing swings ski skis surf "
    "plant plants leaves drink drinks use uses name names fit open hit hits light lights bat bats park parks "
    "stop stops water train ring rings sign signs box back color start support turn turns treat wash travel talk "
    "smile smiles save pass kick jump jumps catch bite bark bend visit wait win yield love cook cooks share "
    "sleep serve move moves lead leads lay pose poses reach care cares read reads"
)
# Forms in -ing that are things wherever they stand, and those that may also be what somebody is doing.
ING_NOUNS: Final = listed(
    "building buildings ceiling ceilings clothing paintings railing railings ring rings string strings wing "
    "wings king kings thing things morning evening wedding icing frosting topping toppings drawings lighting "
    "crossings awning awnings dressings earring earrings sibling siblings duckling ducklings lettering flooring "
    "siding tubing wiring swings spring springs pudding bedding housing coverings carvings markings fillings "
    "fencing sling bling sting nothing something anything everything during furnishings meetings paneling "
    "decking herring offspring beings stockings shavings dumpling dumplings seasoning leggings plumbing netting "
    "molding landings openings gatherings stocking legging ping writings"
)
ING_EITHER: Final = listed(
    "painting drawing stuffing crossing dressing landing writing swing seating covering carving marking filling "
    "wrapping meeting wording filing parking packaging piping being lining gathering outing opening trimming "
    "serving furnishing reading training cooking"
)
# Gerunds that name what a thing is for, before a noun: a dining table, a swimming pool.
COMPOUND_ING: Final = ING_EITHER | listed(
    "living dining swimming washing cutting sewing sleeping skiing fishing racing boxing running bowling walking "
    "shopping rolling frying mixing steering boarding baking waiting changing ironing flying riding vending "
    "drinking hiking jumping setting rising sitting standing smiling laughing crying barking moving playing "
    "surfing bathing shaving weighing rocking folding measuring loading hanging climbing skating nursing burning "
    "melting"
)
COMPOUND_INSIDE: Final = listed("dining living swimming vending steering frying parking bathing")
PARTICIPLES: Final = listed(
    "made worn held seen shown written eaten drawn taken given known thrown grown built bought sold cut hung hit "
    "kept left lit lost put read ridden set shot shut slept spread stood stuck sunk told torn understood won "
    "wound bitten broken chosen done driven fallen flown forgotten frozen hidden caught led meant met paid sent "
    "spilt split spoken stolen sung swept swum strung flung sewn woven knit shorn born spun taught thought woken "
    "bent bound brought burnt dug fed felt gone blown found laid lain sat struck shaken heard spent"
)
# Forms that no noun has: they end a noun phrase wherever they stand.
FINITE: Final = listed(
    "makes wears holds says shows looks sits stands eats carries rides contains appears seems surrounds takes "
    "gives gets goes comes keeps brings becomes happened happens lies hangs belongs connects took gave got went "
    "came became wrote caused threw ate drew grows flies means has have had looks let lets want wants need needs "
    "tells tell know think say wear eat sit go come get make take see bring become happen belong contain seem appear "
    "seems enjoy been"
)
NOT_PARTICIPLES: Final = listed(
    "bed beds shed sheds sled seed seeds weed weeds reed breed speed feed hundred moped bobsled flowerbed "
    "waterbed red need kid steed bread airbed thoroughbred purebred biped tweed deed exceed indeed"
)
NOT_ADVERBS: Final = listed(
    "family butterfly jelly belly fly lily dolly bully ally italy assembly trolley fly supply reply monopoly "
    "potbelly firefly holly rally july"
)
NOT_ADJECTIVES: Final = listed(
    "fish dish radish brush wish jellyfish goldfish starfish vegetable table cable olive hive drive dive five "
    "motive locomotive detective captive relative stable bible crucible handful spoonful mouthful finish polish "
    "polish rubbish parish english spanish british swordfish crawfish catfish marble timetable collective "
    "executive adhesive"
)

# Plurals without an s at the end, and nouns with one that are singular or take no article.
PLURALS: Final = listed(
    "people men women children feet teeth geese mice sheep fish cattle police persons leaves knives loaves dice "
    "deer firemen policemen snowmen businessmen gentlemen ladies oxen elk moose bison aircraft glasses pants "
    "jeans shorts scissors trousers sunglasses goggles tweezers pajamas clothes"
)
SINGULAR_IN_S: Final = listed(
    "bus glass dress grass cross class mattress walrus cactus campus canvas compass gas lens tennis circus "
    "octopus hippopotamus rhinoceros platypus asparagus citrus hummus harness waitress actress princess mess "
    "boss moss brass business address fortress iris christmas process wilderness lettuce kiss loss pass press "
    "stress iris bass news series species chess hibiscus apparatus bonus virus status surplus focus sus abs pus "
    "plus thermos albatross floss toss access"
)
# Nouns that people use without an article: "a hair" would be another statement than "hair".
MASS: Final = listed(
    "hair water grass snow food sand dirt bread rice fruit meat cheese wine beer coffee tea milk juice butter "
    "sugar salt fur clothing furniture luggage traffic graffiti sunlight smoke fog ice mud gravel broccoli "
    "lettuce spinach corn chicken beef pork bacon ham pasta spaghetti soup salad cereal icing frosting ketchup "
    "mustard mayonnaise sauce gravy syrup wood metal plastic paper cardboard fabric leather concrete brick tile "
    "marble stone steel foliage vegetation shrubbery writing text lettering equipment jewelry makeup trash "
    "garbage litter rain lightning weather lighting sky ground makeup facial steam foam hay wool cotton soap "
    "toothpaste garlic celery asparagus kale cabbage seaweed moss ivy bamboo wildlife livestock wallpaper "
    "carpeting seating scenery silverware cutlery tableware china produce chocolate candy cream yogurt honey jam "
    "jelly oil vinegar pepper flour dough cinnamon greenery shade skin blood sweat dust air electricity gasoline "
    "fuel advertising attire armor headgear footwear eyewear plumbing yarn"
)
UNIQUE: Final = listed("sky sun moon ground floor ceiling ocean sea horizon beach background foreground")

# ---- what a picture is, has in any case, or is asked about: never taken for granted as a thing in it ----

PICTURE: Final = listed(
    "picture pictures image images photo photos photograph photographs photography pic pics scene scenes shot "
    "shots view snapshot screenshot video camera photographer background foreground"
)
PLACES: Final = listed(
    "left right top bottom middle center centre front back side sides rear foreground background corner distance "
    "upper lower edge edges end right-hand left-hand top-left top-right bottom-left bottom-right far near inside "
    "outside way direction air"
)
PROPERTIES: Final = listed(
    "color colour colors colours shade tint hue size sizes shape shapes kind kinds type types sort sorts name "
    "names number numbers amount position location place height length width weight depth age breed brand make "
    "model material materials texture pattern patterns style design purpose point condition state status gender "
    "sex ethnicity race nationality species mood expression emotion emotions temperature weather season time "
    "date day year month hour theme main focus subject object objects item items thing things stuff one ones "
    "majority rest part parts kind occasion event meaning reason relationship relation difference activity "
    "action job profession occupation role function use title topic speed score price cost value distance "
    "direction angle order total count quantity percentage half shape setting environment atmosphere area region "
    "situation neighbor neighbour neighbors neighbours outline outlines contour problem matter deal idea "
    "chance difference content contents genre manufacturer company origin "
    "country state city town continent language era century decade flavor taste smell sound capital population "
    "currency outcome result results word words letter letters digit digits text message caption slogan phrase "
    "logo answer question truth fact case way ratio likelihood orientation consistency finish dominant primary "
    "predominant background destination look looks mix trick tricks team teams habitat line expression lead "
    "expressions presence absence factor factors tip tips course print belly effect effects"
)
GENERIC: Final = listed(
    "object objects thing things item items shape shapes one ones figure figures something element elements"
)
# What counts a thing that follows: "a pair of shoes" are shoes.
QUANTITIES: Final = listed(
    "pair pairs set sets lot lots bunch bunches group groups couple herd herds flock pile piles stack stacks "
    "collection collections variety series row rows array assortment majority rest kind kinds type types sort "
    "sorts number amount sequence crowd team bit piece pieces slice slices"
)
# Nouns of which one is always there once another is: not worth a statement of their own.
ABSTRACT: Final = listed(
    "danger help fun love luck war peace life death truth hurry process sense possibility intention thought "
    "thoughts attention sale charge favor motion action progress use control order air tandem unison pain "
    "trouble season style shape focus harmony agreement hope need game sport match race competition morning "
    "afternoon evening night noon midnight sunset today weekend winter summer autumn spring public maneuver "
    "portion designation move decision states birthday party lane"
)
# Whose things people ask for, with an s and without the apostrophe.
OWNERS: Final = listed(
    "boys girls kids mans womans mens womens guys dogs cats persons peoples babies babys giraffes elephants "
    "zebras horses birds players childs childrens ladies ladys bears cows skateboarders surfers skiers batters "
    "catchers"
)
# What a question asks about a thing before it names the thing: "what color hat".
ASKED_BEFORE: Final = listed("color colour colors colours size kind type brand shape style breed make material")
