"""Laws fitted to finished trainings: what a share of the domain gives and costs."""
