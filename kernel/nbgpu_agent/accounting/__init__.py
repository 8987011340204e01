"""What sessions used and cost: metered while they last, kept on disk, summed, and held against budgets."""
