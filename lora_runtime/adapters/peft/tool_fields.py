"""Fields that other tools than PEFT write into adapter_config.json, by what becomes of them."""

from __future__ import annotations

_WRITER = """
    accelerate_version author authors axolotl_version bitsandbytes_version created_by creator
    cuda_version datasets_version deepspeed_version framework framework_version framework_versions
    generator library library_name library_version llama_factory_version llamafactory_version
    maintainer ms_swift_version organization platform python_version swift_version
    tokenizers_version tool tool_version torch_version torchtune_version trained_by
    transformers_version trl_version unsloth_fixed unsloth_version user username
"""
_CARD = """
    adapter_id adapter_name adapter_sha256 adapter_version build_id changelog checksum citation
    comment comments commit _commit_hash commit_hash contact created created_at creation_date
    dataset dataset_name dataset_revision datasets date description digest email experiment
    experiment_name fine_tuned_from finetuned_from git_commit git_hash git_revision git_sha hash
    homepage hub_model_id id job_id labels language languages license md5 metadata model_card
    model_id model_version name notes num_parameters pipeline_tag project provenance repo_id
    repository sha sha256 source status summary tag tags task tasks timestamp title total_params
    train_date trainable_parameters trainable_params trained_on training_data training_dataset
    training_date updated_at url uuid version
"""
_BASE = """
    architectures auto_map base_model base_model_class base_model_hash base_model_id base_model_name
    base_model_path base_model_revision base_model_sha base_model_type base_model_version dtype
    _from_model_config model_name model_name_or_path model_type _name_or_path parent_library
    processor_class tokenizer_class tokenizer_name torch_dtype trust_remote_code
"""
_RUN = """
    adam_beta1 adam_beta2 adam_epsilon axolotl_config batch_size best_checkpoint best_loss
    best_metric best_model_checkpoint bf16 checkpoint checkpoint_path cutoff_len data_seed
    ddp_find_unused_parameters deepspeed environment epoch epochs eval_batch_size eval_loss
    eval_steps evals final_loss finetuning_type fp16 fsdp global_batch_size global_step gpu gpu_name
    gpus gradient_accumulation_steps gradient_checkpointing group_by_length hardware hostname
    hyperparameters learning_rate logging_dir logging_steps loss lr lr_scheduler lr_scheduler_type
    max_grad_norm max_length max_model_len max_seq_len max_seq_length max_steps metrics
    micro_batch_size mlflow_run_id mlflow_tracking_uri neftune_noise_alpha num_epochs num_gpus
    num_steps num_train_epochs num_train_samples num_workers optim optimizer output_dir packing
    per_device_eval_batch_size per_device_train_batch_size random_state report_to
    resume_from_checkpoint run_id run_name sample_packing save_steps seed sequence_len stage step
    steps train_args train_batch_size train_config train_loss train_on_inputs train_on_prompt
    train_runtime train_samples trainer trainer_config training training_args training_arguments
    training_config training_loss training_steps training_time use_gradient_checkpointing wandb
    wandb_entity wandb_id wandb_project wandb_run_id wandb_run_name wandb_url warmup_ratio
    warmup_steps weight_decay world_size
"""
_BASE_BITS = "bnb_4bit_compute_dtype bnb_4bit_quant_type load_in_4bit load_in_8bit quantization quantization_config"
_RATES = "loraplus_lr_embedding loraplus_lr_ratio lorap_emb_lr lorap_lr_ratio lr_ratio"

SILENT: tuple[tuple[str, str], ...] = (
    (_WRITER, "who wrote the files, and with what"),
    (_CARD, "what they are, as on a model card"),
    (_BASE, "the base that was trained: shown nowhere, no code of it is run"),
    (_RUN, "how training ran"),
    ("merge_weights", "where early PEFT computed, not what"),
)
TRAINING: tuple[tuple[str, str], ...] = (
    (_RATES, "learning rates of LoRA+"),
    (_BASE_BITS, "how the base was quantised in training: here it is as it was loaded"),
    ("lora_dtype", "the factors' dtype in training"),
    ("module_dropout rank_dropout", "dropout in training"),
)
INVOCATION_STRINGS = frozenset({"alora_invocation_string", "invocation_string"})
"""The text of `alora_invocation_tokens`: refused where these are missing."""
REFUSED: tuple[tuple[str, str], ...] = (
    (" ".join(sorted(INVOCATION_STRINGS)), "activated LoRA without `alora_invocation_tokens`"),
    ("enable_lora use_merged_linear", "LoRA on parts of a fused layer"),
    ("use_qa_lora", "inputs pooled in groups"),
    ("model_key_mapping", "other names for the base's modules"),
    (
        "blc_alpha blc_weight expert_num lora_nums moe_type num_experts routing_strategy",
        "several experts with a router",
    ),
)
