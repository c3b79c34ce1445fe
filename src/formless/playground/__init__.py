"""The playground: a page on which one talks to a model before and after an edit. Only `page` imports gradio."""
