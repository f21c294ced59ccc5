"""What AWS's errors mean: a reason, a sentence, a remedy, and when to ask again."""
