{{ jollyboat.points_with_next_item('next_product') }}
