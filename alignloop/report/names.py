"""What results, metrics and scores are called for people, each with a sentence that explains it."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """A key of results or metrics for people.

    Attributes:
        label: what it is called.
        tip: what it means, "" where the label says it.
        unit: of its values; `share` is shown in per cent.
    """

    label: str
    tip: str = ""
    unit: str = ""


_NATS = "nats per token"
NAMES: dict[str, Name] = {
    "accuracy": Name("accuracy", "share of pairs in which the chosen answer is preferred", "share"),
    "accuracy_if_longer_wins": Name(
        "accuracy of length alone", "what always preferring the longer answer would get", "share"
    ),
    "beta": Name("β", "strength of the pull towards the reference"),
    "ceiling": Name("best possible accuracy", "what noise in the labels leaves to be had", "share"),
    "chosen_logprob": Name("log-prob of chosen", "of the whole answer under the model", "nats"),
    "rejected_logprob": Name("log-prob of rejected", "of the whole answer under the model", "nats"),
    "chosen_reward": Name("reward of chosen", "β times the log-ratio to the reference, or the model's score"),
    "rejected_reward": Name("reward of rejected", "β times the log-ratio to the reference, or the score"),
    "between_share": Name("spread between prompts", "of all spread of rewards, which says nothing", "share"),
    "between_std": Name("spread between prompts", "standard deviation of the prompts' mean rewards"),
    "within_std": Name("spread within prompts", "standard deviation of rewards of one prompt's answers"),
    "ece_fitted": Name("calibration error, fitted", "after the temperature that fits these rows"),
    "empty": Name("empty answers", "answers without a word", "share"),
    "ensemble_spread": Name("spread of the members", "standard deviation of their rewards of one answer"),
    "eos_rate": Name("answers that end", "by themselves, not at max_new_tokens", "share"),
    "equal_rewards": Name("equal rewards", "pairs that the model cannot tell apart"),
    "explained_variance": Name("explained by the critic", "share of the returns' variance"),
    "kl_coef": Name("KL coefficient", "weight of the KL in the reward"),
    "kl_per_token": Name("KL per token", "from the model it started from", "nats"),
    "left_early": Name("left early", "1 where a rollout's epochs ended at the KL bound"),
    "length_correlation": Name("correlation with length", "of reward and tokens, within a prompt"),
    "memory_gb": Name("memory", "in use by the process", "GB"),
    "nll": Name("loss per token", "negative log-likelihood", "nats"),
    "reference_point": Name("reference point", "KTO's z: log-ratio of mismatched answers"),
    "refusal_rate": Name("refusals", "answers that decline", "share"),
    "repetition": Name("repetition", "share of an answer's word groups that occurred before", "share"),
    "sampler_effective": Name(
        "agreement with the sampler", "effective share of the samples' weights", "share"
    ),
    "sqrt_kl": Name("√KL", "distance as over-optimisation curves have it"),
    "squared_error": Name("squared error", "of the predicted score"),
    "step_s": Name("seconds per step"),
    "tied_judgements": Name("tied judgements", "pairs without a better answer"),
    "zero_spread_groups": Name("groups without spread", "all answers of a prompt got the same reward"),
    "zero_spread_without_penalties": Name(
        "groups without spread before penalties", "all answers of a prompt got the same reward"
    ),
    "clip_fraction": Name("clipped share", "tokens whose ratio lies outside the clipping range", "share"),
    "completion_length": Name("answer length", "tokens of an answer", "tokens"),
    "consistent_share": Name("same verdict in both orders", "of the two answers", "share"),
    "ece": Name("calibration error", "mean gap between stated and observed probability"),
    "empty_answers": Name("empty answers", "answers without a word"),
    "ended_by": Name("ended by", "the alarm or budget that ended the run early"),
    "entropy": Name("entropy", "how undecided the policy is about the next token", _NATS),
    "gold": Name("gold reward", "of the verifier that training does not see, or of the truth", ""),
    "gold_pass_rate": Name("gold pass rate", "answers that keep to all of their constraints", "share"),
    "grad_norm": Name("gradient norm", "before clipping"),
    "kl": Name("KL from the start", "distance of the policy from the model it started from", "nats"),
    "length": Name("length", "words of an answer", "words"),
    "loss": Name("loss", "what training minimises"),
    "margin": Name("margin", "reward of the chosen answer over that of the rejected one"),
    "mean_confidence": Name("mean confidence", "probability that the judge gives its verdicts", "share"),
    "mean_words": Name("words per answer"),
    "member_spread": Name("spread of the members", "standard deviation of their rewards of one answer"),
    "normalized_on_rows": Name("rows of the normalization", "training rows on which rewards were centred"),
    "num_steps": Name("steps", "updates of the weights"),
    "num_without_verdict": Name("pairs without a verdict"),
    "eval_rows": Name("held-out rows"),
    "held_out_accuracy": Name("held-out accuracy", "pairs ordered rightly that were not trained on", "share"),
    "perplexity": Name("perplexity", "exp of the mean loss per token of held-out text; lower is better"),
    "ratio": Name("ratio", "probability of a token now over that when it was sampled"),
    "rejection_rate": Name("rejected share", "", "share"),
    "relative_distance": Name("distance of the weights", "from the start, relative to their size"),
    "reward": Name("reward", "what training maximises"),
    "reward_mean": Name("mean reward before centring"),
    "reward_std": Name("spread of rewards before scaling"),
    "reward_model_score": Name("reward-model score", "mean reward that the reward model gives the answers"),
    "same": Name("same label", "", "share"),
    "share": Name("share", "", "share"),
    "temperature": Name("temperature", "that calibrates the reward model on these rows"),
    "tie_share": Name("ties", "", "share"),
    "time_s": Name("time", "", "s"),
    "tokens_per_s": Name("tokens per second"),
    "value_loss": Name("value loss", "squared error of the critic"),
    "value_explained": Name("explained by the critic", "share of the returns' variance", "share"),
    "win_rate": Name("win rate by gold", "prompts on which the answer is better, ties half", "share"),
    "win_rate_reward": Name("win rate by reward model", "prompts with the higher reward, ties half", "share"),
}
"""Keys of results, metrics.jsonl and samples.jsonl. One that is not here is called by its own words."""


def name_of(key: str) -> Name:
    """What a key is called; a dotted one by its last part, with those before it as an addition.

    Args:
        key: such as `eval_loss` or `held_out.accuracy`.

    Returns:
        Its name; for an unknown key its words.
    """
    if key in NAMES:
        return NAMES[key]
    if key.startswith("eval_"):
        inner = name_of(key.removeprefix("eval_"))
        return inner._replace(label=f"held-out {inner.label}")
    around, dot, last = key.rpartition(".")
    if dot:
        inner = name_of(last)
        return inner._replace(label=f"{around.replace('_', ' ').replace('.', ', ')}: {inner.label}")
    return Name(key.removeprefix("num_").replace("_", " "))
