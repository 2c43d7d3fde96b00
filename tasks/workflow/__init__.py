"""doit's side: task declarations, the reporter, the informational commands, checks of the user's folders. Light."""
