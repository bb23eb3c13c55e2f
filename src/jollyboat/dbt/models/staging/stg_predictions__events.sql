{{ jollyboat.feedback_events('prediction', 'request_id', 'answered_at') }}
