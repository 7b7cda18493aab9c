"""Oracles that tell wrong versions of `myllm.inference` from the right one; see ``tests/mutants.py``.

They are the tests beside this file, called without pytest, so that a mutant that they kill is one that the
tests kill.
"""

import importlib
import inspect

import pytest
from hypothesis import settings

settings.register_profile("mutants", max_examples=30, derandomize=True, deadline=None, database=None)
settings.load_profile("mutants")


def run(module, *names, **fixtures):
    """Call the tests of a module with each of their parameters."""
    tests = importlib.import_module(module)
    for name in names:
        test = getattr(tests, name)
        cases = [
            {key: make(tests) for key, make in fixtures.items() if key in inspect.signature(test).parameters}
        ]
        for mark in getattr(test, "pytestmark", []):
            keys = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
            rows = [value if len(keys) > 1 else (value,) for value in mark.args[1]]
            cases = [case | dict(zip(keys, row, strict=True)) for case in cases for row in rows]
        for case in cases:
            try:
                test(**case)
            except pytest.fail.Exception as failure:  # no Exception, which is what the runner expects
                raise AssertionError(str(failure)) from None


def tiny(tests):
    """The model of ``test_generate.py``."""
    import torch

    from myllm.model.transformer import Transformer

    torch.manual_seed(0)
    return Transformer(tests.CONFIG).eval()


def byte_tokenizer(tests):
    return tests.BPE([], name="bytes")


def sampling():
    run(
        "test_sampling",
        "test_the_options_act_in_their_order",
        "test_ties",
        "test_a_repetition_penalty_never_rewards",
        "test_the_minimum_length_ends_exactly_there",
        "test_the_token_that_crosses_belongs_to_top_p",
        "test_padding_is_never_counted_and_the_prompt_by_two_options_only",
        "test_a_row_has_its_own_generator",
        "test_at_temperature_0_the_penalties_act_and_the_most_likely_token_wins",
        "test_options_that_leave_no_token",
        "test_a_grammar_of_fewer_ids_than_the_model_forbids_the_others",
        "test_a_stop_id_that_the_model_does_not_have_is_no_fault",
        "test_small_dtypes_are_computed_in_float32",
        "test_bad_options_are_named",
        "test_a_bias_of_an_id_that_the_model_does_not_have",
        "test_options_that_keep_everything_change_nothing",
        "test_any_options_in_any_order",
        "test_tokens_are_sampled_from_the_distribution_of_each_option",
    )


def regex():
    run(
        "test_regex",
        "test_examples",
        "test_a_dot_is_any_well_formed_character",
        "test_it_matches_what_python_matches_and_its_beginnings",
        "test_the_mask_token_by_token",
        "test_special_tokens_never_and_stop_ids_where_it_matches",
        "test_a_token_of_several_characters_is_read_whole",
        "test_the_first_token_loses_its_space_where_it_is_decoded_so",
        "test_states_are_few_although_their_expressions_are_many",
        "test_what_is_not_supported_is_refused_with_its_place",
    )


def beam():
    run(
        "test_beam",
        "test_a_narrow_beam_ends_early_and_misses_nothing",
        "test_it_ends_as_soon_as_no_beam_can_win",
        "test_with_a_negative_penalty_a_beam_that_ends_soon_may_still_win",
        "test_a_cache_changes_nothing",
        "test_forbidden_tokens_and_the_end_of_all_beams",
        "test_bad_options_are_named",
        "test_a_wide_beam_finds_what_trying_everything_finds",
    )


def generate():
    run(
        "test_generate",
        "test_a_batch_gives_each_row_what_it_gets_alone",
        "test_rows_that_have_ended_are_not_computed",
        "test_stop_ids_end_the_text_and_are_not_passed_on",
        "test_a_batch_works_with_any_function_and_refuses_what_does_not_fit",
        "test_the_context_may_be_filled_and_not_outgrown",
        "test_each_row_of_a_batch_gets_what_it_gets_alone",
        "test_a_cache_that_is_not_empty_is_refused",
        "test_a_model_that_does_not_use_its_cache_is_found_out",
        "test_where_it_stops_does_not_depend_on_the_pieces",
        "test_text_is_not_held_back_longer_than_needed",
        "test_a_tiny_temperature_is_greedy_and_no_nan",
        "test_pieces_join_to_the_text_for_any_bytes_and_stop_strings",
        "test_a_regex_with_a_grammar_is_one_too_many",
        "test_a_stop_string_is_found_across_tokens",
        "test_only_the_logits_of_the_last_token_are_computed",
        "test_bad_input_is_named",
        model=tiny,
        bytes_tokenizer=byte_tokenizer,
    )


def engine():
    """The tests of the scheduler and its blocks, on the changed module."""
    import random

    import test_scheduler as t

    one, known = t.made(), {}
    for test in (
        t.test_a_block_is_known_by_all_that_comes_before_it,
        t.test_nothing_is_shared_beyond_a_gap,
        t.test_numbers_are_not_joined_to_other_numbers,
        t.test_what_is_unused_longest_goes_first_and_is_then_forgotten,
        t.test_a_block_has_several_users_and_the_same_text_is_kept_once,
    ):
        test()
    t.test_the_work_is_what_must_be_done_and_no_more(one)
    t.test_readers_who_come_together_share_what_they_begin_with(one)
    t.test_prompts_are_computed_in_chunks_while_others_go_on(one)
    t.test_a_full_pool_is_a_queue(one)
    t.test_the_end_of_a_text_is_forgotten_before_its_beginning(one)
    t.test_a_request_that_fails_does_not_end_the_others(one)
    for seed in range(40):
        t.run(one, *t.mix(random.Random(seed)), known)


def speculation():
    """The tests of speculative decoding, on the changed module."""
    import test_speculative as t

    one = t.made(0)
    t.test_lookup_proposes_what_followed_the_longest_latest_match()
    t.test_bigrams_say_from_what_they_sampled()
    t.test_the_model_computes_what_is_new_and_once(one)
    t.test_the_small_model_computes_each_token_once(one)
    t.test_a_smaller_model_with_a_shorter_context_proposes_less(one)
    t.test_a_draft_that_is_right_saves_all_it_can(one)
    for seed in range(20):
        t.test_accepted_or_replaced_a_token_follows_the_model_exactly(seed)
    for name in t.DRAFTS:
        t.test_greedy_speculative_is_greedy(one, name, 5)
    t.test_a_seed_repeats_the_text_and_leaves_the_global_generator_alone(one)
    t.test_options_that_depend_on_the_text_see_it_as_it_is(one, {"repetition_penalty": 1.7})
    t.test_speculative_draws_are_the_models_draws("random bigrams", {"temperature": 0.7, "top_p": 0.8})


ORACLES = [sampling, regex, beam, generate, engine, speculation]
FIRST = {"sampling": sampling, "regex": regex, "beam": beam, "generate": generate}
FIRST |= {"blocks": engine, "scheduler": engine, "speculative": speculation}
