{{ jollyboat.popular_items('next_product') }}
