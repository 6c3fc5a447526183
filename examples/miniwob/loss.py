"""The loss of a batch: cross entropy of the answers' tokens, nothing else."""

import torch
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from examples.miniwob.batches import IGNORED, Batch, image_grid


def see(model: Qwen3VLForConditionalGeneration, patches: torch.Tensor) -> BaseModelOutputWithDeepstackFeatures:
    """The vision tower's features of normalised patches [rows, GRID², 3·PATCH²]."""
    features: BaseModelOutputWithDeepstackFeatures = model.model.get_image_features(
        patches.flatten(0, 1), image_grid(len(patches)), return_dict=True
    )
    return features


def answer_loss(
    model: Qwen3VLForConditionalGeneration, batch: Batch, seen: BaseModelOutputWithDeepstackFeatures
) -> torch.Tensor:
    """Mean cross entropy of the batch's answers, given what the vision tower saw.

    Rows are padded on the right and attention is causal, so no answer sees the padding and no mask is needed.
    """
    is_image = batch.tokens == model.config.image_token_id
    positions, _ = model.model.get_rope_index(batch.tokens, is_image.int(), image_grid(len(batch.tokens)))
    hidden = model.model(
        input_ids=batch.tokens, position_ids=positions, mm_encoder_outputs={"image": seen}
    ).last_hidden_state
    learned = batch.labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[:, :-1][learned])
    return functional.cross_entropy(logits, batch.labels[:, 1:][learned])
