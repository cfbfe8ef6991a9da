python -m FlagEmbedding.finetune.reranker.encoder_only.base --model_name_or_path m --train_data d --output_dir o --num_train_epochs three
