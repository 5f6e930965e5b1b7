from flows.drift import judge


def scored(value: float, low: float, high: float) -> dict[str, object]:
    return {"primary": "ap50", "ap50": value, "intervals": {"ap50": [low, high]}}


def test_a_model_drifted_when_its_whole_interval_lies_below_the_one_of_before() -> None:
    verdict = judge(scored(0.60, 0.55, 0.65), scored(0.40, 0.35, 0.45))
    assert verdict.drifted
    assert "ap50 0.4000 (0.3500 to 0.4500) is surely less than 0.6000 (0.5500 to 0.6500)" == verdict.why


def test_a_lower_score_that_chance_may_explain_is_no_drift() -> None:
    assert not judge(scored(0.60, 0.50, 0.70), scored(0.50, 0.40, 0.60)).drifted


def test_a_model_from_elsewhere_has_nothing_to_be_compared_with() -> None:
    verdict = judge({}, scored(0.40, 0.35, 0.45))
    assert not verdict.drifted
    assert verdict.before is None


def test_scores_without_intervals_are_compared_as_they_are() -> None:
    assert judge({"primary": "ap50", "ap50": 0.5}, {"primary": "ap50", "ap50": 0.4}).drifted
