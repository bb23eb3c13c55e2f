{{ jollyboat.feedback_events('judgement', 'judgement_id', 'judged_at') }}
