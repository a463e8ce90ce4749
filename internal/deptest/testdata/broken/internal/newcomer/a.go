package newcomer
