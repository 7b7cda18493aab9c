"""Oracles that tell wrong versions of `myllm.inference` from the right one; see ``tests/mutants.py``.

They are the tests beside this file, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

import random

from cases import cases, load
from hypothesis import settings

settings.register_profile("mutants", max_examples=30, derandomize=True, deadline=None, database=None)
settings.load_profile("mutants")


def tiny(tests):
    """The model of ``test_generate.py``."""
    import torch

    from myllm.model.transformer import Transformer

    torch.manual_seed(0)
    return Transformer(tests.CONFIG).eval()


def byte_tokenizer(tests):
    return tests.BPE([], name="bytes")


def scheduled():
    """Engines of all settings, whose requests arrive and leave at random."""
    tests = load("inference/test_scheduler.py")
    one, known = tests.made(), {}
    for seed in range(40):
        tests.run(one, *tests.mix(random.Random(seed)), known)


def drawn():
    """Many draws with one of the drafts."""
    options = {"temperature": 0.7, "top_p": 0.8}
    load("inference/test_speculative.py").test_speculative_draws_are_the_models_draws(
        "random bigrams", options
    )


ORACLES = [
    *cases(
        "inference/test_sampling.py",
        only=(
            "the_options_act_in_their_order",
            "ties",
            "a_repetition_penalty_never_rewards",
            "the_minimum_length_ends_exactly_there",
            "the_token_that_crosses_belongs_to_top_p",
            "padding_is_never_counted_and_the_prompt_by_two_options_only",
            "a_row_has_its_own_generator",
            "at_temperature_0_the_penalties_act_and_the_most_likely_token_wins",
            "options_that_leave_no_token",
            "a_grammar_of_fewer_ids_than_the_model_forbids_the_others",
            "a_stop_id_that_the_model_does_not_have_is_no_fault",
            "small_dtypes_are_computed_in_float32",
            "bad_options_are_named",
            "a_bias_of_an_id_that_the_model_does_not_have",
            "options_that_keep_everything_change_nothing",
            "any_options_in_any_order",
            "tokens_are_sampled_from_the_distribution_of_each_option",
        ),
    ),
    *cases(
        "inference/test_regex.py",
        only=(
            "examples",
            "a_dot_is_any_well_formed_character",
            "it_matches_what_python_matches_and_its_beginnings",
            "the_mask_token_by_token",
            "special_tokens_never_and_stop_ids_where_it_matches",
            "a_token_of_several_characters_is_read_whole",
            "the_first_token_loses_its_space_where_it_is_decoded_so",
            "states_are_few_although_their_expressions_are_many",
            "what_is_not_supported_is_refused_with_its_place",
            "one_mask_may_not_take_long",
            "the_work_of_earlier_masks_does_not_count",
        ),
    ),
    *cases(
        "inference/test_beam.py",
        only=(
            "a_narrow_beam_ends_early_and_misses_nothing",
            "it_ends_as_soon_as_no_beam_can_win",
            "with_a_negative_penalty_a_beam_that_ends_soon_may_still_win",
            "a_cache_changes_nothing",
            "forbidden_tokens_and_the_end_of_all_beams",
            "bad_options_are_named",
            "a_wide_beam_finds_what_trying_everything_finds",
        ),
    ),
    *cases(
        "inference/test_generate.py",
        only=(
            "a_batch_gives_each_row_what_it_gets_alone",
            "rows_that_have_ended_are_not_computed",
            "stop_ids_end_the_text_and_are_not_passed_on",
            "a_batch_works_with_any_function_and_refuses_what_does_not_fit",
            "the_context_may_be_filled_and_not_outgrown",
            "each_row_of_a_batch_gets_what_it_gets_alone",
            "a_cache_that_is_not_empty_is_refused",
            "a_model_that_does_not_use_its_cache_is_found_out",
            "where_it_stops_does_not_depend_on_the_pieces",
            "text_is_not_held_back_longer_than_needed",
            "a_tiny_temperature_is_greedy_and_no_nan",
            "pieces_join_to_the_text_for_any_bytes_and_stop_strings",
            "a_regex_with_a_grammar_is_one_too_many",
            "a_stop_string_is_found_across_tokens",
            "only_the_logits_of_the_last_token_are_computed",
            "bad_input_is_named",
        ),
        model=tiny,
        bytes_tokenizer=byte_tokenizer,
    ),
    *cases(
        "inference/test_scheduler.py",
        only=(
            "a_block_is_known_by_all_that_comes_before_it",
            "nothing_is_shared_beyond_a_gap",
            "numbers_are_not_joined_to_other_numbers",
            "what_is_unused_longest_goes_first_and_is_then_forgotten",
            "a_block_has_several_users_and_the_same_text_is_kept_once",
            "the_work_is_what_must_be_done_and_no_more",
            "readers_who_come_together_share_what_they_begin_with",
            "prompts_are_computed_in_chunks_while_others_go_on",
            "a_full_pool_is_a_queue",
            "the_end_of_a_text_is_forgotten_before_its_beginning",
            "a_request_that_fails_does_not_end_the_others",
        ),
        model=lambda tests: tests.made(),
    ),
    scheduled,
    *cases(
        "inference/test_speculative.py",
        only=(
            "lookup_proposes_what_followed_the_longest_latest_match",
            "bigrams_say_from_what_they_sampled",
            "the_model_computes_what_is_new_and_once",
            "the_small_model_computes_each_token_once",
            "a_smaller_model_with_a_shorter_context_proposes_less",
            "a_draft_that_is_right_saves_all_it_can",
            "accepted_or_replaced_a_token_follows_the_model_exactly",
            "greedy_speculative_is_greedy",
            "a_seed_repeats_the_text_and_leaves_the_global_generator_alone",
            "options_that_depend_on_the_text_see_it_as_it_is",
        ),
        model=lambda tests: tests.made(0),
    ),
    drawn,
]
