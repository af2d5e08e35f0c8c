"""What is typed after ``prox-monai``: a module per host, each command importing what it needs when it runs."""
