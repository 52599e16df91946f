"""The paper's Table 11, copied: the items of user A12HF3UBDV34RR, and the six examples."""

ITEMS = {
    "I9762": "Winstonia’s 8 Wheels Combo Set Nail Art Polymer Slices Fimo Decal Pieces Accessories "
    "- Butterflies, Bows, Animals, Fruit, Flowers, Dragonflies, Cupcakes, Hearts",
    "I8123": "MASH Rhinestones 2400 Piece 12 Color Nail Art Nailart Manicure Wheels",
    "I158": "Aveeno Clear Complexion Daily Moisturizer, 4 Ounce",
    "I5324": "Bdellium Tools Professional Antibacterial Makeup Brush Studio Line - Precision "
    "Kabuki Airbrushed Effect 957",
    "I7522": "Bdellium Tools Professional Makeup Brush Green Bambu Series Smoky Eyes 5pc. Brush "
    "Set",
    "I7647": "real Techniques Stippling Brush",
    "I7811": "Maybelline New York Color Sensational High Shine Lipcolor, Coral Lustre 840, 0.12 "
    "Ounce",
    "I9440": "Bed Head BH313 Orange Crush 1-inch Styler",
    "I5046": "Herstyler Baby Curl Curling Iron, Purple",
    "I3977": "L’Oreal Paris HiP Studio Secrets Professional Color Truth Cream Eyeliner, Brown, "
    "0.159 Ounce",
    "I4168": "Sulfur Soap with Lanolin",
}

HISTORY = ["I9762", "I8123", "I158", "I5324", "I7522", "I7647", "I7811", "I9440", "I5046"]
TARGET = "I3977"

# The rating example shows the last five items only; the paper does not say why.
LIKED = ["I7522", "I7811"]
DISLIKED = ["I7647", "I9440", "I5046"]

MASKED = ["I8123", "I7647"]
NEGATIVE = "I4168"

CANDIDATES = """
I10537, I11849, I2647, I10506, I377, I8136, I3598,
I2316, I114, I10379, I6767, I2801, I4687, I3446, I7222, I5925, I4608, I2226, I2279, I11708, I4376,
I8771, I6502, I8650, I7006, I11350, I6716, I4690,
I11303, I3446, I8704, I4001, I9816, I1498, I6896, I1598, I7653, I2086, I12019, I3235, I12052, I27,
I5786, I9936, I697, I10050, I447, I10898, I2093,
I2618, I2044, I2618, I6924, I2769, I8117, I10772, I9252, I4668, I6982, I2234, I9894, I9441, I6514,
I5519, I8620, I710, I10212, I8654, I7648, I11054,
I1419, I10958, I334, I576, I1537, I8278, I3181, I189, I3510, I7974, I6010, I11187, I6465, I9596,
I9356, I311, I2313, I7117, I9249, I643, I6732, I8803,
I5499, I2434, I3977, I10691, I10707, I5553, I7999, I8672.
"""

_HISTORY_TEXT = (
    "A user has purchased the following Amazon products (arranged in chronological order, from "
    "earliest to most recent): Item ID: I9762, Title: Winstonia’s 8 Wheels Combo Set Nail Art "
    "Polymer Slices Fimo Decal Pieces Accessories - Butterflies, Bows, Animals, Fruit, Flowers, "
    "Dragonflies, Cupcakes, Hearts; Item ID: I8123, Title: MASH Rhinestones 2400 Piece 12 Color "
    "Nail Art Nailart Manicure Wheels; Item ID: I158, Title: Aveeno Clear Complexion Daily "
    "Moisturizer, 4 Ounce; Item ID: I5324, Title: Bdellium Tools Professional Antibacterial "
    "Makeup Brush Studio Line - Precision Kabuki Airbrushed Effect 957; Item ID: I7522, Title: "
    "Bdellium Tools Professional Makeup Brush Green Bambu Series Smoky Eyes 5pc. Brush Set; Item "
    "ID: I7647, Title: real Techniques Stippling Brush; Item ID: I7811, Title: Maybelline New York "
    "Color Sensational High Shine Lipcolor, Coral Lustre 840, 0.12 Ounce; Item ID: I9440, Title: "
    "Bed Head BH313 Orange Crush 1-inch Styler; Item ID: I5046, Title: Herstyler Baby Curl Curling "
    "Iron, Purple; "
)

RETRIEVAL = (_HISTORY_TEXT + "What would the user buy next?", "I3977")

RANKING = (
    _HISTORY_TEXT + "Which of the following candidate items would you recommend the user to buy "
    "next? Candidate items are: " + " ".join(CANDIDATES.split()),
    "I3977",
)

RATING = (
    "A user likes the following Amazon products: Item ID: I7522, Title: Bdellium Tools "
    "Professional Makeup Brush Green Bambu Series Smoky Eyes 5pc. Brush Set; Item ID: I7811, "
    "Title: Maybelline New York Color Sensational High Shine Lipcolor, Coral Lustre 840, 0.12 "
    "Ounce; The user dislikes the following Amazon products: Item ID: I7647, Title: real "
    "Techniques Stippling Brush; Item ID: I9440, Title: Bed Head BH313 Orange Crush 1-inch Styler; "
    "Item ID: I5046, Title: Herstyler Baby Curl Curling Iron, Purple; Predict whether the user "
    "would like the following item. Answer yes or no. Item ID: I3977, Title: L’Oreal Paris HiP "
    "Studio Secrets Professional Color Truth Cream Eyeliner, Brown, 0.159 Ounce",
    "no",
)

MIM = (
    "A user has purchased the following Amazon products (arranged in chronological order, from "
    "earliest to most recent): Item ID: I9762, Title: Winstonia’s 8 Wheels Combo Set Nail Art "
    "Polymer Slices Fimo Decal Pieces Accessories - Butterflies, Bows, Animals, Fruit, Flowers, "
    "Dragonflies, Cupcakes, Hearts; [masked item]; Item ID: I158, Title: Aveeno Clear Complexion "
    "Daily Moisturizer, 4 Ounce; Item ID: I5324, Title: Bdellium Tools Professional Antibacterial "
    "Makeup Brush Studio Line - Precision Kabuki Airbrushed Effect 957; Item ID: I7522, Title: "
    "Bdellium Tools Professional Makeup Brush Green Bambu Series Smoky Eyes 5pc. Brush Set; "
    "[masked item]; Item ID: I7811, Title: Maybelline New York Color Sensational High Shine "
    "Lipcolor, Coral Lustre 840, 0.12 Ounce; Item ID: I9440, Title: Bed Head BH313 Orange Crush "
    "1-inch Styler; Item ID: I5046, Title: Herstyler Baby Curl Curling Iron, Purple; Item ID: "
    "I3977, Title: L’Oreal Paris HiP Studio Secrets Professional Color Truth Cream Eyeliner, "
    "Brown, 0.159 Ounce; What are the masked items, in chronological order?",
    "Item ID: I8123, Title: MASH Rhinestones 2400 Piece 12 Color Nail Art Nailart Manicure Wheels; "
    "Item ID: I7647, Title: real Techniques Stippling Brush;",
)

# The text before its spans are corrupted.
MLM = (
    "Item ID: I7811, Title: Maybelline New York Color Sensational High Shine Lipcolor, Coral "
    "Lustre 840, 0.12 Ounce; Item ID: I9440, Title: Bed Head BH313 Orange Crush 1-inch Styler;"
)

BPR = (
    _HISTORY_TEXT + "Which of the following two items would the user buy next? Item ID: I4168, "
    "Title: Sulfur Soap with Lanolin; Item ID: I3977, Title: L’Oreal Paris HiP Studio Secrets "
    "Professional Color Truth Cream Eyeliner, Brown, 0.159 Ounce;",
    "Item ID: I3977, Title: L’Oreal Paris HiP Studio Secrets Professional Color Truth Cream "
    "Eyeliner, Brown, 0.159 Ounce",
)
