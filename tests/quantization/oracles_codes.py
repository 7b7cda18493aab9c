"""What accepts or refuses a changed module of `myllm.quantization`: rotation, nf4, gptq and bnb."""


def rotation():
    """The tests of rotation on small models."""
    import test_rotation as t
    import torch

    ids = torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(1))
    for name in t.CONFIGS:
        t.test_the_logits_stay(name, ids)
    for name in ("tied", "biases"):
        t.test_the_residual_stream_turns_and_nothing_else_does(name, ids)
    t.test_the_gains_are_gone()
    t.test_a_tied_head_is_untied_and_the_table_stays()
    t.test_the_matrix_is_orthogonal_and_follows_the_seed()
    for make, message in t.REFUSED:
        t.test_what_cannot_be_rotated_is_refused_and_left_alone(make, message)


def nf4():
    """The tests of NF4."""
    import pytest
    import test_nf4 as t
    import torch

    t.test_the_levels_are_those_of_bitsandbytes()
    t.test_the_dynamic_levels_have_seven_decades()
    t.test_halfway_takes_the_lower_level_and_zero_stays_zero()
    for shape in t.SHAPES:
        t.test_bytes_and_scales_are_those_of_bitsandbytes(shape, 64, torch.float32)
        t.test_double_quantization_is_that_of_bitsandbytes(shape)
    t.test_numbers_halfway_between_two_levels_go_where_bitsandbytes_puts_them()
    t.test_bits_are_counted_to_the_last_one()
    t.test_double_quantization_costs_little()
    t.test_the_layer_computes_with_the_weight_it_stands_for_and_hands_gradients_on()
    for double in (True, False):
        t.test_saved_buffers_load_into_a_layer_without_memory(double)
    for block in (0, 3):
        with pytest.raises(t.UserError, match="an even number of weights"):
            t.NF4Linear(t.linear((4, 64)), block)


def gptq():
    """The tests of GPTQ on single layers, then on small models."""
    import test_gptq as t
    import torch

    t.test_the_hessian_is_that_of_the_outputs_error()
    t.test_the_output_error_is_what_it_says()
    t.test_inputs_are_needed_and_finite()
    for bits, group in ((2, 16), (4, 32)):
        for symmetric in (False, True):
            for act_order in (False, True):
                t.test_gptq_is_least_squares_column_by_column(bits, group, symmetric, act_order)
    t.test_all_groupings_work()
    t.test_without_correlations_it_is_rounding(True)
    t.test_the_hessian_and_the_weight_stay_as_they_are()
    t.test_a_column_without_input_is_only_rounded(False)
    t.test_a_singular_hessian_raises_the_damping_and_says_so()
    t.test_the_grid_is_the_one_that_is_stored(torch.float16, False)


def gptq_models():
    """The tests of GPTQ on small models."""
    import pytest
    import test_gptq as t

    for settings in t.MODELS:
        t.test_each_layer_is_calibrated_with_the_inputs_that_it_will_have(settings)
    with pytest.MonkeyPatch.context() as patch:
        t.test_one_input_and_one_hessian_are_kept_at_a_time(patch)
    t.test_match_and_store_choose()
    t.test_a_failure_leaves_the_model_as_it_was()


def bnb():
    """The tests of bitsandbytes' layers."""
    import pytest
    import test_bnb as t

    t.test_nf4_is_ours()
    t.test_rows_without_whole_blocks_are_refused()
    for bias in (True, False):
        t.test_llm_int8_is_our_dynamic_int8(bias)
    t.test_outliers_are_multiplied_apart()
    for make in (t.LLMInt8, t.BnbNF4):
        t.test_gradients_reach_the_input(make)
        t.test_the_mode_is_that_of_the_layer(make)
        with pytest.MonkeyPatch.context() as patch:
            t.test_without_the_library_one_line_names_the_extra(make, patch)


ORACLES = [rotation, nf4, gptq, gptq_models, bnb]
