from recllm_tasks.prompts.samples import sample_prompts


def test_the_prompts_are_worded_as_in_the_paper():
    retrieval, ranking, rating = sample_prompts()
    history = (
        "A user has watched the following movies (arranged in chronological order, from earliest "
        "to most recent): Item ID: I471, Title: Star Wars (1977); Item ID: I958, Title: Empire "
        "Strikes Back, The (1980); Item ID: I348, Title: Return of the Jedi (1983);"
    )
    assert retrieval == (f"{history} What would the user watch next?", "I235")
    assert ranking == (
        f"{history} Which of the following candidate items would you recommend the user to watch "
        "next? Candidate items are: I60, I235.",
        "I235",
    )
    assert rating == (
        "A user likes the following movies: Item ID: I471, Title: Star Wars (1977); Item ID: I348, "
        "Title: Return of the Jedi (1983); The user dislikes the following movies: Item ID: I958, "
        "Title: Empire Strikes Back, The (1980); Predict whether the user would like the following "
        "item. Answer yes or no. Item ID: I235, Title: Twelve Monkeys (1995)",
        "yes",
    )
